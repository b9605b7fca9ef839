"""From records to tables, figures and a page.

load              records from files
efficiency        an efficiency record worked out: ratios, efficiency lengths
variant, groups   quality records as ranked rows in groups, with their efficiency (efficiency_table)
composite         the Compositional Index over groups
analyses/         further questions
csv_table         rows of the CSV files
document          headings, paragraphs, tables and figures; contents and tables build one from all of the above
markdown, html    the document as text and as a page;  figures/ draws, plain_table is for the terminal
build             writes all of it
"""
