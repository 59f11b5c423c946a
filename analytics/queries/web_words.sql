-- Names that the SQL editor completes
-- One row each: `word`, `kind` (class: a table; property: a column; function), `about`.
SELECT word, kind, about
FROM
(
    SELECT concat('fieldline.', name) AS word, 'class' AS kind, comment AS about FROM system.tables WHERE database = 'fieldline'
    UNION ALL
    SELECT name AS word, 'property' AS kind, any(concat(table, ': ', comment)) AS about FROM system.columns WHERE database = 'fieldline' GROUP BY name
    UNION ALL
    SELECT name AS word, 'function' AS kind, '' AS about FROM system.functions WHERE NOT startsWith(name, '_') AND alias_to = ''
)
ORDER BY kind, word
LIMIT 5000
