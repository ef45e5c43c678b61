"""Reports: a `Judgement` in, files for people and machines out. No torch, and no arithmetic a detector should have done.

`write_report` in folder.py is the entry. machine.py makes report.json (its schema is schema.json), page.py the page report.html
(templates/ and report.css; evidence_view.py, layers_view.py and sections.py say what is on it), summary.py the text, chart.py
signature.png, formats.py what pipelines read (sarif.py, junit.py, markdown.py, attestation.py, all from report.json through
reading.py), reload.py the judgement of a folder to draw again, pictures.py the triggers and the sheet of samples. strip.py and
panel.py choose which layers and bars are shown; answer.py is the short answer on top of the page, shared.py counts the pixels
that triggered samples share, heat.py colours tokens, files.py names the files. Layer names come from the audited model and are
hostile text: nothing shows one to a person before `words.printable` has been over it, or on a page `units.web_text`.
"""
