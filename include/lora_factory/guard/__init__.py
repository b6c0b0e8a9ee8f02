"""Guard rails shared by the stages and the serving app: prompts and copying."""
