"""Events that end answers, by what the model's own thread has seen of them: no test depends on who is quicker."""

import threading


class Looked(threading.Event):
    """Counts how often the model has looked whether to stop; a reader that waits looks as often as time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def is_set(self) -> bool:
        self.looks += threading.current_thread().name == "model"
        return super().is_set()


class StopsAtLook(Looked):
    """Is set when the model looks for the n-th time."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def is_set(self) -> bool:
        super().is_set()
        return self.looks >= self.n


class Awaited(Looked):
    """Lets the model take some steps, and no more until it is set: whoever reads sets it in time."""

    def is_set(self) -> bool:
        set_ = super().is_set()
        if self.looks == 16 and threading.current_thread().name == "model":
            return self.wait()
        return set_
