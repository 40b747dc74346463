#!/bin/sh
# setup.sh [build|test|interop] checks for the programs that no make target builds, and installs those that are
# missing with the system's package manager. With `build` it looks for what `make demo` needs, with
# `test` (the default) also for what the tests need, and with `interop` also for Python. The variable PYTHON
# names another program than python3.
#
# On a terminal it asks first. Without one it installs as root, or in CI (the variable CI is set) with sudo.
# Otherwise it prints the command to run and exits with status 1. If nothing is missing, it does nothing.
set -eu
scope=${1:-test}
case $scope in build | test | interop) ;; *)
	echo "error: unknown scope $scope
hint: setup.sh build, setup.sh test or setup.sh interop" >&2
	exit 2
	;;
esac

have() { command -v "$1" >/dev/null 2>&1; }

fail() {
	printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
	exit 1
}

# Go and Node aren't installed from packages: distributions bring versions that are too old.
want=$(sed -n 's/^go //p' "$(dirname "$0")/../../go.mod")
have go || fail "Go is missing" "install Go $want or newer from https://go.dev/dl/"
have npm || fail "npm is missing; it installs ONNX Runtime" "install Node 22 or newer from https://nodejs.org"

if [ "$(uname -s)" = Darwin ]; then
	manager=brew
elif have apt-get; then
	manager=apt-get
elif have dnf; then
	manager=dnf
elif have pacman; then
	manager=pacman
else
	manager=
fi

# add NAME APT DNF PACMAN BREW notes that NAME is missing, and the packages that bring it, separated by spaces.
missing= packages=
add() {
	missing="$missing${missing:+, }$1"
	case $manager in
	apt-get) packages="$packages $2" ;;
	dnf) packages="$packages $3" ;;
	pacman) packages="$packages $4" ;;
	brew) packages="$packages $5" ;;
	esac
}

have make || add make make make make make
compiler=$(go env CC)
# On macOS the compiler is part of the command line tools, which no package manager brings.
if ! have "${compiler%% *}"; then
	[ "$manager" != brew ] || fail "a C compiler is missing" "run xcode-select --install"
	add "a C compiler" "gcc libc6-dev" "gcc glibc-devel" gcc ""
fi
if [ "$scope" = test ]; then
	have curl || add curl curl curl curl curl
	# Prometheus's rules are tested with promtool, which takes five minutes to build from source.
	have promtool || add promtool prometheus golang-github-prometheus prometheus prometheus
	# The tests of the server's page run in a browser.
	if ! have chromium && ! have chromium-browser && ! have google-chrome &&
		! [ -e "/Applications/Google Chrome.app" ] && ! [ -e /Applications/Chromium.app ]; then
		add "Chromium or Chrome" chromium chromium chromium "--cask chromium"
	fi
fi
if [ "$scope" = interop ]; then
	python=${PYTHON:-python3}
	if have "$python"; then
		"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
			fail "$python is older than Python 3.11" "name a newer one, such as PYTHON=python3.12"
		# Debian packages these modules separately.
		"$python" -c 'import ensurepip, venv' 2>/dev/null || add "Python's module venv" python3-venv python3 python python
	elif [ "$python" = python3 ]; then
		add Python "python3 python3-venv" python3 python python
	else
		fail "$python is missing" "install it, or name another one, such as PYTHON=python3"
	fi
fi
[ -n "$missing" ] || exit 0

case $manager in
apt-get) command="apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends$packages"
	# Debian's package of Prometheus also starts a server, which nothing here needs.
	case $packages in *prometheus*) command="$command && if [ -d /run/systemd/system ]; then systemctl disable --now prometheus; fi" ;; esac
	;;
dnf) command="dnf install -y$packages" ;;
pacman) command="pacman -Sy --noconfirm --needed$packages" ;;
brew)
	# Homebrew installs casks with a command of their own.
	formulae=$(printf %s "$packages" | sed 's/ --cask chromium//')
	command="${formulae:+brew install$formulae}"
	case $packages in *--cask*) command="$command${command:+ && }brew install --cask chromium" ;; esac
	;;
*) fail "missing: $missing" "install them with your system's package manager" ;;
esac

if [ "$manager" = brew ]; then
	have brew || fail "missing: $missing" "install Homebrew from https://brew.sh, then run $command"
elif [ "$(id -u)" -ne 0 ]; then
	command="sudo sh -c '$command'"
	# Without a terminal nobody can answer sudo.
	if ! have sudo || { { ! [ -t 0 ] || ! [ -t 2 ]; } && ! { [ -n "${CI:-}" ] && sudo -n true 2>/dev/null; }; }; then
		fail "missing: $missing" "run $command"
	fi
fi
if [ -t 0 ] && [ -t 2 ]; then
	printf 'Missing: %s\n  %s\nRun this command? [y/N] ' "$missing" "$command" >&2
	read -r answer || answer=
	case $answer in y | Y | yes) ;; *) fail "missing: $missing" "run $command" ;; esac
else
	printf 'Missing: %s\n  %s\n' "$missing" "$command" >&2
fi
eval "$command"
