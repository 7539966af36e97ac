"""Problems to train and evaluate on: generators, data sets, prompt templates."""
