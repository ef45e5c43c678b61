"""Reports: a `Judgement` in, files for people and machines out. No torch, and no arithmetic a detector should have done.

`write_report` in folder.py is the entry; machine.py makes report.json (its schema is schema.json), words.py the text,
chart.py the picture. Layer names come from the audited model and are hostile text: nothing shows one to a person before
`words.printable` has been over it.
"""
