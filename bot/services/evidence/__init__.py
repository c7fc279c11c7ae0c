"""What is known about candidates: stored answers and scores, how often the held-out rows were seen, what people say
about a judge, and how a run and its result are shown. The workers that score answers are here too."""
