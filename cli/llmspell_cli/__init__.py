"""The command line: `llmspell`, one file per noun, each imported when it is used."""
