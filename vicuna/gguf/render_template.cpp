// Render chat templates with llama.cpp's own Jinja engine (common/jinja), and prepare the messages as llama-server does.
//
// Reads one JSON object a line: {"template", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token",
// "kwargs"}. Answers with one a line: {"text"} or {"error"}. scripts/install_cpp.sh compiles it with the sources of the
// engine, which it takes from the source package of llama-cpp-python; vicuna/gguf/llama_cpp_source.py calls it.
#include "jinja/caps.h"
#include "jinja/lexer.h"
#include "jinja/parser.h"
#include "jinja/runtime.h"
#include "jinja/value.h"
#include "json.h"

#include <cstdlib>
#include <ctime>
#include <iostream>
#include <map>
#include <string>

using json = common_json;

// The only function of ggml that the engine calls: what ends the program where a check of its own fails.
extern "C" void ggml_abort(const char * file, int line, const char * format, ...) {
    std::cerr << file << ":" << line << ": " << format << std::endl;
    std::abort();
}

struct compiled_template {
    jinja::program program;
    std::string source;
    jinja::caps knows;

    explicit compiled_template(const std::string & text) {
        jinja::lexer lexer;
        auto tokens = lexer.tokenize(text);
        program = jinja::parse_from_tokens(tokens);
        source = tokens.source;
        knows = jinja::caps_get(program);
    }
};

static std::string joined(const json & parts) {
    std::string text;
    for (const auto & part : parts) {
        if (part.value("type", "") == "text") {
            text += (text.empty() ? "" : "\n") + part.value("text", "");
        }
    }
    return text;
}

// As the server takes a message in: null is no content, and no content is "".
static json taken_in(const json & message) {
    json found = json::object();
    found["role"] = message.at("role");
    bool has_content = message.contains("content") && !message.at("content").is_null();
    found["content"] = has_content ? message.at("content") : json("");
    for (const char * name : {"reasoning_content", "name", "tool_call_id"}) {
        if (message.contains(name) && message.at(name).is_string() && !message.at(name).empty()) {
            found[name] = message.at(name);
        }
    }
    if (message.contains("tool_calls") && message.at("tool_calls").is_array() && !message.at("tool_calls").empty()) {
        json calls = json::array();
        for (const auto & call : message.at("tool_calls")) {
            json function = json::object();
            function["name"] = call.at("function").at("name");
            const json & arguments = call.at("function").at("arguments");
            function["arguments"] = arguments.is_string() ? arguments : json(arguments.dump());
            json one = json::object();
            one["type"] = "function";
            one["function"] = function;
            if (call.contains("id")) {
                one["id"] = call.at("id");
            }
            calls.push_back(one);
        }
        found["tool_calls"] = calls;
    }
    return found;
}

// What the server does to messages for the sake of what the template knows.
static json prepared(const json & messages, const compiled_template & with) {
    json found = json::array();
    bool developer_is_known = with.source.find("<|channel|>") != std::string::npos;
    for (const auto & message : messages) {
        json one = taken_in(message);
        if (one["role"] == "developer" && !developer_is_known) {
            one["role"] = "system";
        }
        if (one["content"].is_array() && !with.knows.supports_typed_content) {
            one["content"] = joined(one["content"]);
        } else if (one["content"].is_string() && !with.knows.supports_string_content) {
            json part = json::object();
            part["type"] = "text";
            part["text"] = one["content"];
            json parts = json::array();
            parts.push_back(part);
            one["content"] = parts;
        }
        if (with.knows.supports_object_arguments && one.contains("tool_calls")) {
            for (auto & call : one["tool_calls"]) {
                json & arguments = call["function"]["arguments"];
                arguments = json::parse(arguments.get<std::string>());
            }
        }
        found.push_back(one);
    }
    if (!with.knows.supports_system_role && !found.empty() && found.front().at("role") == "system") {
        if (found.size() > 1) {
            found[1]["content"] = found.front().at("content").get<std::string>() + "\n"
                + found[1].at("content").get<std::string>();
        }
        found.erase(0);
    }
    return found;
}

static std::string today(const char * form) {
    char text[64];
    const std::time_t now = std::time(nullptr);
    return std::string(text, std::strftime(text, sizeof(text), form, std::localtime(&now)));
}

static std::string rendered(const json & request, const compiled_template & with) {
    jinja::context context(with.source);
    json given = json::object();
    given["messages"] = prepared(request.at("messages"), with);
    given["bos_token"] = request.value("bos_token", "");
    given["eos_token"] = request.value("eos_token", "");
    // What the server gives every template.
    given["enable_thinking"] = true;
    given["date_string"] = today("%d %b %Y");
    given["datetime"] = today("%b %d %Y");
    if (request.contains("tools") && request.at("tools").is_array() && !request.at("tools").empty()) {
        given["tools"] = request.at("tools");
    }
    if (request.contains("kwargs") && request.at("kwargs").is_object()) {
        const json & further = request.at("kwargs");
        for (auto it = further.begin(); it != further.end(); ++it) {
            given[it.key()] = it.value();
        }
    }
    if (request.contains("add_generation_prompt") && request.at("add_generation_prompt").get<bool>()) {
        given["add_generation_prompt"] = true;
    }
    jinja::global_from_json(context, given, false);
    jinja::runtime runtime(context);
    const jinja::value results = runtime.execute(with.program);
    return jinja::runtime::gather_string_parts(results)->as_string().str();
}

static std::string labelled(const char * name, const std::string & text) {
    json answer = json::object();
    answer[name] = text;
    return answer.dump();
}

int main() {
    std::ios::sync_with_stdio(false);
    std::map<std::string, compiled_template> templates;
    std::string line;
    while (std::getline(std::cin, line)) {
        std::string answer;
        try {
            const json request = json::parse(line);
            const std::string text = request.at("template").get<std::string>();
            auto found = templates.find(text);
            if (found == templates.end()) {
                found = templates.emplace(text, compiled_template(text)).first;
            }
            answer = labelled("text", rendered(request, found->second));
        } catch (const std::exception & error) {
            answer = labelled("error", error.what());
        }
        std::cout << answer << "\n";
    }
    return 0;
}
