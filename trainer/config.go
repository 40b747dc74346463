package main

// configCommand prints what a run would be made of.
type configCommand struct {
	composition
}

// Run writes the composed configuration as YAML, the same text that a run
// keeps in its folder.
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
