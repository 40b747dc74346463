package main

import "github.com/pulumi/pulumi/sdk/v3/go/pulumi"

// Protection prevents a protected stack from being destroyed, even in part. It depends on every
// other resource, so `pulumi destroy` has to delete it first. On a protected stack that step
// fails, and nothing else is deleted. Call [NewProtection] first and [Protection.Register] last.
type Protection struct {
	pulumi.ResourceState

	resources []pulumi.Resource
}

// NewProtection starts to collect all resources that the program registers.
func NewProtection(ctx *pulumi.Context) (*Protection, error) {
	p := &Protection{}
	// A component doesn't list its resources: the SDK adds them after the constructor returns.
	return p, ctx.RegisterStackTransformation(func(args *pulumi.ResourceTransformationArgs) *pulumi.ResourceTransformationResult {
		if custom, ok := args.Resource.(pulumi.CustomResource); ok {
			p.resources = append(p.resources, custom)
		}
		return nil
	})
}

// Register registers the protection, which depends on the resources collected so far. Stacks that
// aren't protected have it as well: `pulumi up` with protect=false can lift the protection of a
// resource, but it can't delete a protected one.
func (p *Protection) Register(ctx *pulumi.Context, name string, stack *Stack) error {
	if err := register(ctx, "Protection", name, p, stack.Kept(), pulumi.DependsOn(p.resources)); err != nil {
		return err
	}
	return ctx.RegisterResourceOutputs(p, pulumi.Map{})
}
