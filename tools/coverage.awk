# Reads profiles that `go test -coverprofile` wrote and prints the share of covered statements per
# package, then the total. Exits 1 if the total is below `least` percent.
#
# A block that several profiles list counts once. Generated code is excluded.

# file.go:LINE.COLUMN,LINE.COLUMN STATEMENTS COUNT
NF == 3 && $1 !~ /\.(pb|gen)\.go:/ {
	if (!($1 in size)) {
		size[$1] = $2
		package = $1
		sub(/\/[^\/]*$/, "", package)
		if (!(package in all)) names[++n] = package
		all[package] += $2
		total += $2
	}
	if ($3 > 0 && !($1 in hit)) {
		hit[$1] = 1
		package = $1
		sub(/\/[^\/]*$/, "", package)
		covered[package] += $2
		run += $2
	}
}

END {
	if (total == 0) {
		print "error: coverage: the profiles are empty\nhint: run the tests with -coverprofile" > "/dev/stderr"
		exit 1
	}
	for (i = 2; i <= n; i++) { # sorted
		name = names[i]
		for (j = i; j > 1 && names[j-1] > name; j--) names[j] = names[j-1]
		names[j] = name
	}
	for (i = 1; i <= n; i++) line(names[i], covered[names[i]], all[names[i]])
	line("total", run, total)
	if (100 * run < least * total) {
		printf "error: coverage is %.1f %%, below the minimum of %s %%\nhint: the table above shows the packages\n", 100 * run / total, least > "/dev/stderr"
		exit 1
	}
}

function line(name, run, total) {
	printf "%-40s %6.1f %%  %6d of %6d\n", name, 100 * run / total, run, total
}
