package main

// configCommand prints the configuration of a run.
type configCommand struct {
	composition
}

// Run prints the composed configuration as YAML, as in the config.yaml of a run folder.
func (c *configCommand) Run(std streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	text, err := cfg.YAML()
	if err != nil {
		return err
	}
	_, err = std.out.Write(text)
	return err
}
