package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"fakeart/internal/cli"
	"fakeart/internal/config"
)

// helpCommand prints help.
type helpCommand struct {
	Command []string `arg:"" optional:"" help:"Command, as in trainer help data prepare."`
}

// Run prints the help of the command on standard output.
func (c *helpCommand) Run(ctx context.Context, std streams) error {
	_, err := newParser(ctx, std).Parse(append(c.Command, "--help")) // exits after printing the help
	return usageError{withHint(err, c.Command)}
}

const examples = `
Examples:
  Prepare the synthetic dataset, train for a few epochs, and evaluate the model:
    trainer data prepare
    trainer train experiment=smoke run.dir=runs/first
    trainer evaluate --model runs/first/model.onnx --data data/synthetic

  Train on your own images, in one folder per class:
    trainer data prepare dataset=folder dataset.path=pets dataset.size=64 dataset.dir=data/pets
    trainer train dataset=folder dataset.size=64 dataset.dir=data/pets run.dir=runs/pets

  Import a model of another framework, and check its predictions:
    trainer model import resnet18.onnx --labels labels.txt --preset torchvision --verify sample.npz -o models/resnet18.onnx
    trainer model show models/resnet18.onnx

  Continue an interrupted run:
    trainer train experiment=smoke run.dir=runs/first run.resume=true

  Check yesterday's predictions for drift:
    trainer drift --reference runs/first --current predictions.db --since yesterday --until today
`

const documentation = `
Documentation: docs/how-to/training.md, all commands: docs/reference/trainer.md,
all settings: docs/reference/keys.md.
`

// printHelp prints the help of kong. It adds the choices of the configuration to the commands that
// use one, and examples to the help of the program.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil {
		return err
	}
	command := ctx.Selected()
	switch {
	case command == nil:
		fmt.Fprint(ctx.Stdout, examples)
	case len(command.Positional) == 0 || command.Positional[0].Name != "overrides":
		return nil
	}
	writeChoices(ctx)
	_, err := fmt.Fprint(ctx.Stdout, documentation)
	return err
}

// writeChoices prints the groups of the configuration that have more than one choice. It prints nothing
// if the configuration files can't be read, which commands report better.
func writeChoices(ctx *kong.Context) {
	dir := os.Getenv("FAKEART_CONFIG_DIR")
	for i, arg := range ctx.Args {
		if arg == "--config-dir" && i+1 < len(ctx.Args) {
			dir = ctx.Args[i+1]
		} else if value, ok := strings.CutPrefix(arg, "--config-dir="); ok {
			dir = value
		}
	}
	groups, err := config.Groups(dir)
	if err != nil {
		return
	}
	fmt.Fprintf(ctx.Stdout, "\nChoices in %s:\n", cmp.Or(dir, "the built-in configuration"))
	w := tabwriter.NewWriter(ctx.Stdout, 0, 0, 2, ' ', 0)
	for _, g := range groups {
		if len(g.Choices) < 2 {
			continue
		}
		var choices []string
		for _, choice := range g.Choices {
			if choice == g.Default {
				choice += " (default)"
			}
			choices = append(choices, choice)
		}
		fmt.Fprintf(w, "  %s\t%s\n", g.Name, strings.Join(choices, ", "))
	}
	_ = w.Flush()
}

// dashedSetting matches a setting that is written like a flag.
var dashedSetting = regexp.MustCompile(`^-+([a-z]+\.[a-z0-9_.]+(=.*)?|[a-z]+=.*)$`)

// missingValue matches the errors of kong for a flag without a value.
var missingValue = regexp.MustCompile(`^(--[a-z-]+): (?:expected .* value but got "EOL"|missing value)`)

// isSetting reports whether an argument that looks like a flag is a setting with dashes: a key or the
// name of a group.
func isSetting(arg string) bool {
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	return strings.Contains(name, ".") || slices.ContainsFunc(config.Keys(), func(key string) bool { return strings.HasPrefix(key, name+".") })
}

// withHint adds a hint to a parse error, unless it has one. args is the command line.
func withHint(err error, args []string) error {
	message := err.Error()
	if strings.Contains(message, "\n"+cli.HintPrefix) {
		return err
	}
	if m := missingValue.FindStringSubmatch(message); m != nil {
		message = m[1] + " needs a value"
	}
	if strings.HasPrefix(message, "unknown flag") {
		for _, arg := range args {
			if dashedSetting.MatchString(arg) && isSetting(arg) {
				return fmt.Errorf("%w\n%ssettings are written without dashes: %s", err, cli.HintPrefix, strings.TrimLeft(arg, "-"))
			}
		}
	}
	if text, suggestion, ok := strings.Cut(message, ", did you mean "); ok {
		return fmt.Errorf("%s\n%sdid you mean %s", text, cli.HintPrefix, suggestion)
	}
	program := "trainer"
	if parse, ok := errors.AsType[*kong.ParseError](err); ok && parse.Context != nil && parse.Context.Selected() != nil {
		selected := parse.Context.Selected()
		program = selected.FullPath()
		// After a flag, kong accepts no more values of an argument that was given before it.
		arg, unexpected := strings.CutPrefix(message, "unexpected argument ")
		if unexpected && strings.Contains(arg, "=") && len(selected.Positional) > 0 {
			return fmt.Errorf("%s\n%sput all settings before the flags", message, cli.HintPrefix)
		}
	}
	return fmt.Errorf("%s\n%srun %s --help", message, cli.HintPrefix, program)
}

// decodeInteger decodes an integer flag. It replaces kong's own function, whose errors mention Go's
// types.
func decodeInteger(ctx *kong.DecodeContext, target reflect.Value) error {
	token, err := ctx.Scan.PopValue("integer")
	if err != nil {
		return err
	}
	text := fmt.Sprint(token.Value)
	n, err := config.ParseInteger(text)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && target.OverflowInt(n):
		return fmt.Errorf("%s is out of range", text)
	case err != nil:
		return fmt.Errorf("%q isn't an integer", text)
	}
	target.SetInt(n)
	return nil
}
