package reference

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// Flags returns a Markdown table of flags with their environment variables, defaults and help
// texts.
func Flags(flags []*kong.Flag) string {
	var rows [][]string
	variables := false
	for _, f := range flags {
		if !listed(f) {
			continue
		}
		name := "--" + f.Name
		switch {
		case f.IsBool():
		case f.PlaceHolder != "":
			name += "=" + f.PlaceHolder
		case f.Enum != "":
			name += "=" + strings.ReplaceAll(strings.TrimPrefix(f.Enum, ","), ",", "|")
		default:
			name += "=…"
		}
		cell := Code(name)
		if f.Tag.Negatable != "" {
			cell += ", " + Code("--no-"+f.Name)
		}
		if f.Required {
			cell += " (required)"
		}
		rows = append(rows, []string{cell, Code(strings.Join(f.Envs, ", ")), Code(f.Default), Text(f.Help)})
		variables = variables || len(f.Envs) > 0
	}
	if variables {
		return Table([]string{"flag", "variable", "default", ""}, rows)
	}
	for i, row := range rows {
		rows[i] = []string{row[0], row[2], row[3]}
	}
	return Table([]string{"flag", "default", ""}, rows)
}

// Commands returns a Markdown section for each command that isn't hidden, with its help text,
// arguments and flags. It leaves out the program's global flags.
func Commands(app *kong.Application) string {
	var b strings.Builder
	for _, command := range app.Leaves(true) {
		fmt.Fprintf(&b, "## %s\n%s\n\n", command.FullPath(), Text(command.Help))
		var arguments [][]string
		for _, p := range command.Positional {
			arguments = append(arguments, []string{Code(p.Summary()), Text(p.Help)})
		}
		if arguments != nil {
			b.WriteString(Table([]string{"argument", ""}, arguments))
		}
		var flags []*kong.Flag
		for n := command; n != app.Node; n = n.Parent {
			flags = append(flags, n.Flags...)
		}
		if flags != nil {
			b.WriteString(Flags(flags))
		}
	}
	return b.String()
}

// listed reports whether to list the flag: it isn't hidden and isn't --help, which all commands
// have.
func listed(f *kong.Flag) bool { return !f.Hidden && f.Name != "help" }
