"""What the Hugging Face Trainer lacks: exact batches, a loss per supervised token, verified checkpoints, the plan.

Idea: a run is a pure function of its flags, data and base. The number of processes, a kill or a resume changes nothing
of it, and everything that it is going to do is said in the plan before the first step.
"""
