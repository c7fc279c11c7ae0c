"""OpenAI-shaped HTTP over the spool: who may ask, what is asked, and the answers in OpenAI's bodies."""
