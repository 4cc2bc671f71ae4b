"""Names of the types that a GGUF file can be written in."""

# Written as they are; every other type is llama.cpp's quantisation of one of these.
PLAIN_TYPES = ("f32", "f16", "bf16")
QUANTISED_TYPES = (
    *("q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0"),
    *("q3_k_l", "q3_k_m", "q3_k_s", "q2_k"),
)
