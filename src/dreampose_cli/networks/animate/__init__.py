"""The reference-attention family on Stable Diffusion: MagicAnimate, AnimateAnyone, MagicPose.

An appearance network, a copy of the UNet, reads the photo's clean latents; what its self-attention layers see is joined
to the keys and values of the denoising UNet's. A pose control steers the body, motion modules attend over the frames of
a window. Nothing is tuned for a person.
"""
