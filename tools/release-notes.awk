# Prints the section of CHANGELOG.md that is about the version v1.2.3, given as `version`,
# and fails when there is none, or nothing in it.

BEGIN {
	number = version
	if (!sub(/^v/, "", number)) fail("\"" version "\" is no version: want such as v1.2.3")
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
	if (!found) fail("it has no section \"## " number "\": write one, with what users notice")
	if (!said) fail("its section \"## " number "\" is empty: say what users notice")
}

function fail(message) {
	failed = 1
	print "CHANGELOG.md: " message > "/dev/stderr"
	exit 1
}
