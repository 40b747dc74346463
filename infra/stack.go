package main

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Stack is what every component needs to know: where it belongs, and how its
// resources are called.
type Stack struct {
	// Project and Region are Google Cloud's.
	Project, Region string
	// Number is the project's number, which the accounts of Google's own services carry.
	Number string
	// Prefix begins the name of every resource, so that several stacks live in one project.
	Prefix string
	// Protect is whether data has to be kept from deletion.
	Protect bool
	// APIs are the services of Google's that have to be enabled before anything is made.
	APIs []pulumi.Resource
}

// Named is the name of a resource.
func (s *Stack) Named(what string) string { return s.Prefix + "-" + what }

// Labels are those of every resource that can have some.
func (s *Stack) Labels(component string) pulumi.StringMap {
	return pulumi.StringMap{
		"app": pulumi.String("fakeart"), "stack": pulumi.String(s.Prefix), "component": pulumi.String(component), "managed-by": pulumi.String("pulumi"),
	}
}

// In places a resource into its component, once the APIs are there.
func (s *Stack) In(component pulumi.Resource, more ...pulumi.ResourceOption) pulumi.ResourceOption {
	return pulumi.Composite(append(more, pulumi.Parent(component), pulumi.DependsOn(s.APIs))...)
}

// Kept is the option for what holds data that cannot be made again.
func (s *Stack) Kept() pulumi.ResourceOption { return pulumi.Protect(s.Protect) }

// Shared is the option for grants to Google's own accounts in the project: every stack
// there makes the same ones, and one that is destroyed must not take them from the others.
func (s *Stack) Shared() pulumi.ResourceOption { return pulumi.RetainOnDelete(true) }
