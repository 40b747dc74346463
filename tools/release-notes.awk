# Prints the section of CHANGELOG.md about a version, such as version=v1.2.3. Fails if the section is missing
# or empty.

BEGIN {
	number = version
	if (!sub(/^v/, "", number)) fail("\"" version "\" isn't a version such as v1.2.3")
}

/^## / {
	inside = $2 == number || $2 == "[" number "]"
	if (inside) found = 1
	next
}

inside && (said || NF) {
	said = 1
	print
}

END {
	if (failed) exit 1
	if (!found) fail("section \"## " number "\" is missing\nhint: describe the changes that users notice")
	if (!said) fail("section \"## " number "\" is empty\nhint: describe the changes that users notice")
}

function fail(message) {
	failed = 1
	print "error: CHANGELOG.md: " message > "/dev/stderr"
	exit 1
}
