"""The verdict of a study: the eight questions, each answered with a word, a sentence, its grade and its numbers.

``frame`` collects the answers, one module per question makes them from the tables of a report, ``document`` writes them
as ``verdict.json`` (docs/verdict.md), and ``ledger`` keeps who read which test results when.
"""
