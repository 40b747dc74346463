package main

import (
	"fmt"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/billing"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Budget is the monthly budget of the project, with notifications.
type Budget struct {
	pulumi.ResourceState

	Budget *billing.Budget
}

// BudgetArgs are the arguments of NewBudget.
type BudgetArgs struct {
	Stack *Stack
	// Account is the billing account. Amount is the monthly budget in units of Currency.
	Account  string
	Amount   int
	Currency string
	// Channels are notification channels that send email, the only kind that a budget supports.
	// A budget uses the first five.
	Channels pulumi.StringArray
}

// NewBudget creates a budget. It counts the costs of the whole project, including other stacks.
func NewBudget(ctx *pulumi.Context, name string, args *BudgetArgs, opts ...pulumi.ResourceOption) (*Budget, error) {
	b := &Budget{}
	if err := register(ctx, "Budget", name, b, opts...); err != nil {
		return nil, err
	}
	rules := billing.BudgetThresholdRuleArray{}
	for _, rule := range []struct {
		share float64
		basis string
	}{{0.5, "CURRENT_SPEND"}, {0.9, "CURRENT_SPEND"}, {1, "CURRENT_SPEND"}, {1.2, "FORECASTED_SPEND"}} {
		rules = append(rules, &billing.BudgetThresholdRuleArgs{ThresholdPercent: pulumi.Float64(rule.share), SpendBasis: pulumi.String(rule.basis)})
	}
	budget := &billing.BudgetArgs{
		BillingAccount: pulumi.String(args.Account), DisplayName: pulumi.String(args.Stack.Prefix),
		BudgetFilter: &billing.BudgetBudgetFilterArgs{
			Projects: pulumi.ToStringArray([]string{"projects/" + args.Stack.Number}), CalendarPeriod: pulumi.String("MONTH"),
		},
		Amount: &billing.BudgetAmountArgs{SpecifiedAmount: &billing.BudgetAmountSpecifiedAmountArgs{
			CurrencyCode: pulumi.String(args.Currency), Units: pulumi.String(fmt.Sprint(args.Amount)),
		}},
		ThresholdRules: rules,
	}
	if len(args.Channels) > 0 {
		budget.AllUpdatesRule = &billing.BudgetAllUpdatesRuleArgs{MonitoringNotificationChannels: args.Channels[:min(len(args.Channels), 5)]}
	}
	var err error
	if b.Budget, err = billing.NewBudget(ctx, name, budget, args.Stack.In(b)); err != nil {
		return nil, err
	}
	return b, ctx.RegisterResourceOutputs(b, pulumi.Map{"budget": b.Budget.Name})
}
