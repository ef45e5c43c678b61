"""Proof by transplant: what the highest-ranked suspect samples share in their input, put on clean samples.

Start at evidence.py, the steps of a scan, and prove.py, which searches target by target.

Steps:
- evidence.py: from ranked samples to evidence
- conclusion.py: from evidence to a judgement
- interim.py: the same while a scan runs, and whether it ends there
- reconstruct.py: the search as such a step
- prove.py: for each target the strongest trigger, and its control
- triggered.py: the suspects that hold what was proved
- clusters.py: where samples come from that lie outside their class
- token_heat.py: which tokens deviate

Candidates and controls, of images:
- pictures.py: the search of one target
- images.py: what a group of samples has in common
- matched_filter.py: the samples of a group that hold its pattern
- crops.py: windows cut out of single samples
- chances.py: groups of clean samples with the same chances

Of texts:
- texts.py: the search of one target
- tokens.py: tokens and phrases that are frequent under a class
- token_pairs.py: pairs that meet far oftener than in clean data
- sentences.py: phrases grown around a word
- inserted.py: words put into a text that keeps its own
- rivals.py: words of clean texts with the same chances
- measured.py: the best words that were found, as a proof

What both measure with:
- transplant.py: a trigger on clean samples
- trials.py: samples that choose and samples that measure
- apply.py: what a trigger does to inputs, the one place
- erase.py: a trigger taken out of suspects again
- erase_words.py: the same of texts
- budget.py: how many samples may run
- examples.py: a few of them for people to look at

From outside:
- given.py: triggers of another audit say where to look first
- continuations.py: what a language model answers, as classes
- against_base.py: the model that another was tuned from
"""
