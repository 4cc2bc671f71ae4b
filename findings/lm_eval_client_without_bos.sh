#!/usr/bin/env bash
# lm-eval's client of an OpenAI-compatible server scores without BOS, also where it is told to put it in front.
#
# `local-completions` of lm-eval 0.4.13 takes add_bos_token. With tokenizer_backend=remote, which it finds out by itself where
# a server has /tokenizer_info, it asks for ids with add_special_tokens false, always, and sends them as they come: the
# argument is kept and never looked at. A base that was trained with BOS is scored on texts that have no beginning, unless
# the server puts it there. Nothing is said of it.
#
# Seen with lm_eval 0.4.13, Python 3.11:
#   asked of the tokenizer: add_special_tokens False
#   prompt that was sent: [11, 12, 13], BOS is 1
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet "lm_eval[api]==0.4.13"
cat >"$work/try.py" <<'PYTHON'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

BOS, seen = 1, {}


class Server(BaseHTTPRequestHandler):
    """A tokenizer whose ids are the places of letters, with BOS where it is asked for; scores are all the same."""

    def do_GET(self):
        self.say({"bos_token": "<s>", "eos_token": "</s>"})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            seen["special"] = asked["add_special_tokens"]
            ids = [ord(letter) - ord("a") + 11 for letter in asked["prompt"]]
            self.say({"tokens": ([BOS] if seen["special"] else []) + ids})
        else:
            (seen["prompt"],) = asked["prompt"]
            count = len(seen["prompt"]) + 1
            scores = {"token_logprobs": [-1.0] * count, "top_logprobs": [{"a": -1.0}] * count}
            self.say({"choices": [{"index": 0, "text": "", "logprobs": scores}]})

    def say(self, data):
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}/v1/completions"
client = LocalCompletionsAPI(base_url=address, model="m", add_bos_token=True)
client.loglikelihood([Instance("loglikelihood", {}, ("ab", "c"), 0)], disable_tqdm=True)
print("asked of the tokenizer: add_special_tokens", seen["special"])
print(f"prompt that was sent: {seen['prompt']}, BOS is {BOS}")
sys.exit(0 if seen == {"special": False, "prompt": [11, 12, 13]} else 1)
PYTHON
env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY "$work/env/bin/python" "$work/try.py" 2>/dev/null
