"""Published multiple-choice examinations, answered by the likelihood of the options: C-Eval, CMMLU and AGIEval.

Idea: what is asked and how it is scored is lm-eval's, so that its figures can be compared; the ids that a model is
given are ours, with BOS and the first ▁, so that a base is asked as it was trained.
"""
