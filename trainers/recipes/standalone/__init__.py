"""Programs that are copied into exported folders. They run there without this project, with numpy, or with openai; so
they import only what is copied beside them (trainers/recipes/export.py)."""

PUBLIC_MODULES = ()
