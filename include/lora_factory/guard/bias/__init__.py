"""Bias: an association audit of generated pictures, and a mitigation on text embeddings.

``attributes``   which attributes, the words they are made of, and which prompts name them
``reading``      the scorer as a classifier of presentation, calibrated, or abstaining
``association``  shares, intervals, paired differences: pure functions of readings
``projection``   calibrated orthogonal projection of text embeddings (Chuang et al. 2023)

What is classified is how a drawn figure *presents* to a scorer: not anyone's gender, age or
skin. A scorer has biases of its own, two groups an attribute are fewer than there are, and
parity is a yardstick, not a target for every use. Where the scorer can't tell the groups on
pictures that were asked to show them, the audit abstains and says so.
"""
