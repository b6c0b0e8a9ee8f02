"""What can run a denoiser in place of eager torch; see ``diffusion.builds``."""
