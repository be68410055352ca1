"""`python -m llmspell_cli` is `llmspell`."""

from llmspell_cli.main import main

if __name__ == "__main__":
    main()
