// Infra is the Pulumi program that provisions Fakeart on Google Cloud, from an empty project to
// a monitored service. Run it with `make infra-preview` and `make infra-up`.
//
// [Config] describes the configuration keys of a stack, which docs/reference/stacks.md lists.
// Each component has a file of its own with a New function; [deploy] puts them together.
// docs/tutorials/cloud.md walks through a first deployment.
package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/organizations"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

func main() { pulumi.Run(deploy) }

// deploy is the Pulumi program: it registers every component of a stack.
func deploy(ctx *pulumi.Context) error {
	c, err := loadConfig(ctx)
	if err != nil {
		return err
	}
	if warning := c.warning(); warning != "" {
		if err := ctx.Log.Warn(warning, nil); err != nil {
			return err
		}
	}
	project, err := organizations.LookupProject(ctx, &organizations.LookupProjectArgs{ProjectId: &c.Project})
	if err != nil {
		return fmt.Errorf("gcp:project %s: %w\nhint: check that the project exists and that you are logged in: gcloud auth application-default login", c.Project, err)
	}
	if err := checkExisting(ctx, c, project.Number); err != nil {
		return err
	}
	stack := &Stack{Project: c.Project, Region: c.Region, Number: project.Number, Prefix: "fakeart-" + c.Stack, Protect: c.Protect, Extra: c.Labels}
	if c.Dataset == "" {
		if err := checkDataset(ctx, stack, c.KMSKey); err != nil {
			return err
		}
	}
	protection, err := NewProtection(ctx)
	if err != nil {
		return err
	}
	services, err := NewServices(ctx, "services", &ServicesArgs{Stack: stack, More: c.moreAPIs()})
	if err != nil {
		return err
	}
	stack.APIs = services.Enabled

	identity, err := NewIdentity(ctx, "identity", &IdentityArgs{
		Stack: stack, Repository: c.Repository, RepositoryID: c.RepositoryID, OwnerID: c.RepositoryOwnerID,
		Ref: c.DeployRef, Environment: c.DeployEnvironment,
	})
	if err != nil {
		return err
	}
	var keyReady []pulumi.Resource
	if c.KMSKey != "" {
		encryption, err := NewEncryption(ctx, "encryption", &EncryptionArgs{Stack: stack, KMSKey: c.KMSKey})
		if err != nil {
			return err
		}
		keyReady = encryption.Granted
	}
	storage, err := NewStorage(ctx, "storage", &StorageArgs{
		Stack: stack, KMSKey: c.KMSKey, Existing: c.Bucket, Reader: identity.Server.Email, Writer: identity.Trainer.Email,
	})
	if err != nil {
		return err
	}
	registry, err := NewRegistry(ctx, "registry", &RegistryArgs{
		Stack: stack, ImmutableTags: c.ImmutableTags, Writer: identity.Deployer.Email, KMSKey: c.KMSKey, Ready: keyReady,
	})
	if err != nil {
		return err
	}
	secrets, err := NewSecrets(ctx, "secrets", &SecretsArgs{
		Stack: stack, Token: c.AdminToken, Given: c.given["adminToken"], Reader: identity.Server, KMSKey: c.KMSKey, Granted: keyReady,
	})
	if err != nil {
		return err
	}
	log, err := NewPredictionLog(ctx, "prediction-log", &PredictionLogArgs{
		Stack: stack, Days: c.LogDays, KMSKey: c.KMSKey, Existing: c.Dataset, Writer: identity.Server.Email,
	})
	if err != nil {
		return err
	}

	outputs := pulumi.Map{
		"bucket": storage.Name, "registry": pulumi.String(registry.Address), "topic": log.Topic.Name,
		"workloadIdentityProvider": identity.Provider, "deployer": identity.Deployer.Email,
		"adminTokenSecret": secrets.AdminToken.SecretId,
	}
	watch := &MonitoringArgs{
		Stack: stack, Service: stack.Named("server"), MinInstances: c.MinInstances,
		Email: c.Email, SlackChannel: c.SlackChannel, SlackToken: c.SlackToken,
		PagerDutyKey: c.PagerDutyKey, HasPagerDuty: c.given["pagerDutyKey"], RunbookURL: c.RunbookURL,
		DeadLetterSubscriptions: pulumi.StringArray{log.DeadLetters.Name, log.FeedbackDeadLetters.Name},
	}
	if c.Image != "" {
		service, err := NewService(ctx, "service", &ServiceArgs{
			Stack: stack, Config: c, Account: identity.Server.Email, Deployer: identity.Deployer.Email,
			Bucket: cmp.Or(c.Bucket, bucketName(stack)), Topic: stack.Named("predictions"), FeedbackTopic: stack.Named("feedback"),
			AdminToken: stack.Named("admin-token"), Collector: stack.Named("collector"),
			Ready: slices.Concat(secrets.Ready, storage.Grants, identity.Grants, keyReady, []pulumi.Resource{log}),
		})
		if err != nil {
			return err
		}
		if c.LoadBalancer != nil {
			balancer, err := NewLoadBalancer(ctx, "load-balancer", &LoadBalancerArgs{
				Stack: stack, Balancer: c.LoadBalancer, Domain: c.Domain, Service: service.Service, IAPSecret: c.IAPClientSecret,
			})
			if err != nil {
				return err
			}
			outputs["loadBalancerAddress"] = balancer.Address
		}
		outputs["url"], outputs["canaryUrl"] = service.URL, service.CanaryURL
		watch.HasMetrics = c.Objectives
		watch.After = []pulumi.Resource{service}
		if c.reachable() {
			watch.Host = service.Host
		}
	}
	if c.TrainerImage != "" {
		training, err := NewTraining(ctx, "training", &TrainingArgs{
			Stack: stack, Image: c.TrainerImage, Size: c.Training, Account: identity.Trainer.Email, Deployer: identity.Deployer.Email,
			Bucket: storage.Name, Log: log, VPC: c.VPC, KMSKey: c.KMSKey,
		}, pulumi.DependsOn(slices.Concat(storage.Grants, keyReady)))
		if err != nil {
			return err
		}
		triggers, err := NewTriggers(ctx, "triggers", &TriggersArgs{
			Stack: stack, Bucket: storage.Name, Account: identity.Events.Email, Training: training, Schedule: c.DriftSchedule, KMSKey: c.KMSKey, Models: c.modelNames(),
		}, pulumi.DependsOn(keyReady))
		if err != nil {
			return err
		}
		outputs["jobs"] = pulumi.ToStringArray(training.Names)
		watch.Jobs, watch.DriftWorkflow = training.Names, stack.Named("dispatch")
		watch.DeadLetterSubscriptions = append(watch.DeadLetterSubscriptions, triggers.DeadLetters.Name)
	}
	monitoring, err := NewMonitoring(ctx, "monitoring", watch)
	if err != nil {
		return err
	}
	outputs["dashboard"] = monitoring.DashboardURL
	if c.BillingAccount != "" {
		if _, err := NewBudget(ctx, "budget", &BudgetArgs{
			Stack: stack, Account: c.BillingAccount, Amount: c.Budget, Currency: c.BudgetCurrency, Channels: monitoring.Mail,
		}); err != nil {
			return err
		}
	}
	if err := protection.Register(ctx, "protection", stack); err != nil {
		return err
	}
	console := "https://console.cloud.google.com"
	outputs["console"] = pulumi.StringMap{
		"run":    pulumi.Sprintf("%s/run?project=%s", console, c.Project),
		"logs":   pulumi.Sprintf("%s/logs/query?project=%s", console, c.Project),
		"bucket": pulumi.Sprintf("%s/storage/browser/%s?project=%s", console, storage.Name, c.Project),
	}
	for name, value := range outputs {
		ctx.Export(name, value)
	}
	return nil
}
