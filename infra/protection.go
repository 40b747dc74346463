package main

import "github.com/pulumi/pulumi/sdk/v3/go/pulumi"

// Protection keeps a protected stack from being destroyed, even in part. It depends on every
// other resource, so `pulumi destroy` has to delete it first. On a protected stack that step
// fails, and nothing else is deleted. Call [NewProtection] first and [Protection.Register] last.
type Protection struct {
	pulumi.ResourceState

	resources []pulumi.Resource
}

// NewProtection collects all resources that the program registers from now on.
func NewProtection(ctx *pulumi.Context) (*Protection, error) {
	p := &Protection{}
	// A component doesn't know its resources yet when it returns: the SDK adds them later.
	return p, ctx.RegisterStackTransformation(func(args *pulumi.ResourceTransformationArgs) *pulumi.ResourceTransformationResult {
		if custom, ok := args.Resource.(pulumi.CustomResource); ok {
			p.resources = append(p.resources, custom)
		}
		return nil
	})
}

// Register makes the protection depend on the resources collected so far. Stacks that aren't
// protected have it as well: `up` with protect=false lifts it, while Pulumi would refuse to
// delete it.
func (p *Protection) Register(ctx *pulumi.Context, name string, stack *Stack) error {
	if err := register(ctx, "Protection", name, p, stack.Kept(), pulumi.DependsOn(p.resources)); err != nil {
		return err
	}
	return ctx.RegisterResourceOutputs(p, pulumi.Map{})
}
