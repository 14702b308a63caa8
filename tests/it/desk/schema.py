# Validates alerts, one a line on standard input, by the schema in a file. Prints how many there were.
import json
import sys

import jsonschema

schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
count = 0
for line in open(sys.argv[2]):
    alert = json.loads(line)
    validator.validate(alert)
    # Nothing is in an alert that the schema does not name.
    unnamed = set(alert) - set(schema["properties"]) - set(sys.argv[3:])
    assert not unnamed, unnamed
    count += 1
print(count)
