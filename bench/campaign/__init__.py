"""The parent: which processes to run, which of them are done, run the rest, keep what comes."""
