package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/cloudrun"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/cloudrunv2"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// The container port of the server, which the collector reads its metrics from too.
const serverPort = 8080

// Service is the server on Cloud Run, with the collector of its metrics beside it.
type Service struct {
	pulumi.ResourceState

	// Service is the service.
	Service *cloudrunv2.Service
	// URL is where it answers, Host the host in it, and CanaryURL where the canary does,
	// whatever its share; empty without one.
	URL, Host, CanaryURL pulumi.StringOutput
}

// ServiceArgs says what runs, and how much of it.
type ServiceArgs struct {
	Stack  *Stack
	Config *Config
	// Account and Deployer are e-mail addresses of service accounts: whom it runs as,
	// and who may deploy revisions.
	Account, Deployer pulumi.StringOutput
	// Bucket, Topic and FeedbackTopic are names: of the bucket with the models, and of the
	// topics that predictions are logged to, and what users say of them.
	Bucket, Topic, FeedbackTopic string
	// AdminToken and Collector are names of secrets.
	AdminToken, Collector string
	// Ready has to be there before an instance starts: secrets, and the account's grants.
	Ready []pulumi.Resource
}

// NewService makes the service.
//
// A revision is named by the digest of what it is made of. So the revision that a
// canary stands beside is the one that the same configuration without the canary had
// made, and going back to it makes no new one.
func NewService(ctx *pulumi.Context, name string, args *ServiceArgs, opts ...pulumi.ResourceOption) (*Service, error) {
	s := &Service{CanaryURL: pulumi.String("").ToStringOutput()}
	if err := register(ctx, "Service", name, s, opts...); err != nil {
		return nil, err
	}
	c, stack := args.Config, args.Stack
	stable, err := args.template(c.Image)
	if err != nil {
		return nil, err
	}
	latest := stable
	traffic := cloudrunv2.ServiceTrafficArray{
		&cloudrunv2.ServiceTrafficArgs{Type: pulumi.String("TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"), Percent: pulumi.Int(100)},
	}
	if c.Canary != nil {
		if latest, err = args.template(c.Canary.Image); err != nil {
			return nil, err
		}
		traffic = cloudrunv2.ServiceTrafficArray{
			&cloudrunv2.ServiceTrafficArgs{
				Type: pulumi.String("TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"), Percent: pulumi.Int(c.Canary.Percent), Tag: pulumi.String("canary"),
			},
		}
		if rest := 100 - c.Canary.Percent; rest > 0 {
			traffic = append(traffic, &cloudrunv2.ServiceTrafficArgs{
				Type: pulumi.String("TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"), Revision: stable.Revision, Percent: pulumi.Int(rest),
			})
		}
	}
	service := &cloudrunv2.ServiceArgs{
		Project: pulumi.String(stack.Project), Location: pulumi.String(stack.Region), Name: pulumi.String(stack.Named("server")),
		Description: pulumi.String("Tells photographs from AI-generated pictures"), Labels: stack.Labels("service"),
		Ingress: pulumi.String(ingresses[c.Ingress]), Template: latest, Traffics: traffic,
	}
	if audiences := c.audiences(); len(audiences) > 0 {
		service.CustomAudiences = pulumi.ToStringArray(audiences)
	}
	// Cloud Run returns a scaling block of its own for each service.
	in := stack.In(s, stack.Kept(), pulumi.DependsOn(args.Ready), pulumi.IgnoreChanges([]string{"scaling"}))
	if s.Service, err = cloudrunv2.NewService(ctx, name, service, in); err != nil {
		return nil, err
	}
	s.URL = s.Service.Uri
	if c.Canary != nil {
		s.CanaryURL = s.Service.Uri.ApplyT(canaryURL).(pulumi.StringOutput)
	}
	s.Host = s.URL.ApplyT(func(url string) string { return strings.TrimPrefix(url, "https://") }).(pulumi.StringOutput)
	if err := s.access(ctx, name, args); err != nil {
		return nil, err
	}
	if c.LoadBalancer != nil {
		s.URL, s.Host = pulumi.String("https://"+c.Domain).ToStringOutput(), pulumi.String(c.Domain).ToStringOutput()
	} else if c.Domain != "" {
		mapping, err := cloudrun.NewDomainMapping(ctx, name, &cloudrun.DomainMappingArgs{
			Project: pulumi.String(stack.Project), Location: pulumi.String(stack.Region), Name: pulumi.String(c.Domain),
			Metadata: &cloudrun.DomainMappingMetadataArgs{Namespace: pulumi.String(stack.Project), Labels: stack.Labels("service")},
			Spec:     &cloudrun.DomainMappingSpecArgs{RouteName: s.Service.Name},
			// Any change replaces the mapping, and a domain has one at a time.
		}, stack.In(s, pulumi.DeleteBeforeReplace(true)))
		if err != nil {
			return nil, err
		}
		s.URL = pulumi.Sprintf("https://%s", mapping.Name)
	}
	return s, ctx.RegisterResourceOutputs(s, pulumi.Map{"url": s.URL, "name": s.Service.Name})
}

// canaryURL is where the revision with the tag canary answers
// (https://cloud.google.com/run/docs/rollouts-rollbacks-traffic-migration#tags).
func canaryURL(service string) string {
	return strings.Replace(service, "https://", "https://canary---", 1)
}

// access says who may call the service, and who may deploy its revisions.
func (s *Service) access(ctx *pulumi.Context, name string, args *ServiceArgs) error {
	type grant struct {
		name, role string
		member     pulumi.StringInput
	}
	grants := []grant{{"deployer", "roles/run.developer", member(args.Deployer)}}
	if args.Config.Public {
		grants = append(grants, grant{"public", "roles/run.invoker", pulumi.String("allUsers")})
	}
	for _, m := range args.Config.Members {
		// Named by the member, so that removing one from the list leaves the others alone.
		grants = append(grants, grant{"invoker-" + shortHash(m), "roles/run.invoker", pulumi.String(m)})
	}
	for _, g := range grants {
		if _, err := cloudrunv2.NewServiceIamMember(ctx, name+"-"+g.name, &cloudrunv2.ServiceIamMemberArgs{
			Project: s.Service.Project, Location: s.Service.Location, Name: s.Service.Name, Role: pulumi.String(g.role), Member: g.member,
		}, args.Stack.In(s)); err != nil {
			return err
		}
	}
	return nil
}

// shortHash returns eight characters that tell texts apart in names of resources.
func shortHash(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:4])
}

// env is the server's environment; docs/how-to/operate.md explains it. There is nothing
// secret in it.
func (a *ServiceArgs) env() [][2]string {
	return [][2]string{
		{"FAKEART_ADMIN_TOKEN_FILE", "/etc/fakeart/admin/token"},
		{"FAKEART_FEEDBACK_TOPIC", fmt.Sprintf("gcppubsub://projects/%s/topics/%s", a.Stack.Project, a.FeedbackTopic)},
		{"FAKEART_LOG_FORMAT", "json"},
		// What cannot be sent waits in memory: Cloud Run's disk is that.
		{"FAKEART_LOG_PATH", "/tmp/outbox.db"},
		{"FAKEART_LOG_STORE", "pubsub"},
		{"FAKEART_LOG_TOPIC", fmt.Sprintf("gcppubsub://projects/%s/topics/%s", a.Stack.Project, a.Topic)},
		// Twice: for bodies, and for decoding.
		{"FAKEART_MAX_MEMORY", fmt.Sprint(mebibytes(a.Config.Memory) << 20 / 4)},
		{"FAKEART_MODEL", "gs://" + a.Bucket + "/" + modelsFolder},
		{"FAKEART_MODEL_SOURCE", "gs://" + a.Bucket + "/models/"},
		{"FAKEART_MODEL_WATCH", "30s"},
		{"FAKEART_REQUEST_TIMEOUT", "10s"},
		{"GOOGLE_CLOUD_PROJECT", a.Stack.Project},
	}
}

// template is the revision with an image of the server. It is named by the digest of
// all that makes it another than the next, the collector's configuration included. The
// account has no part in it: it is the provider's to know, and always the same.
func (a *ServiceArgs) template(image string) (*cloudrunv2.ServiceTemplateArgs, error) {
	c := a.Config
	env := cloudrunv2.ServiceTemplateContainerEnvArray{}
	for _, e := range a.env() {
		env = append(env, &cloudrunv2.ServiceTemplateContainerEnvArgs{Name: pulumi.String(e[0]), Value: pulumi.String(e[1])})
	}
	mount := func(name, path string) *cloudrunv2.ServiceTemplateContainerVolumeMountArgs {
		return &cloudrunv2.ServiceTemplateContainerVolumeMountArgs{Name: pulumi.String(name), MountPath: pulumi.String(path)}
	}
	secret := func(name, id, file string) *cloudrunv2.ServiceTemplateVolumeArgs {
		return &cloudrunv2.ServiceTemplateVolumeArgs{
			Name: pulumi.String(name),
			Secret: &cloudrunv2.ServiceTemplateVolumeSecretArgs{
				Secret: pulumi.String(id),
				Items:  cloudrunv2.ServiceTemplateVolumeSecretItemArray{&cloudrunv2.ServiceTemplateVolumeSecretItemArgs{Version: pulumi.String("latest"), Path: pulumi.String(file)}},
			},
		}
	}
	t := &cloudrunv2.ServiceTemplateArgs{
		Labels:                        a.Stack.Labels("service"),
		ExecutionEnvironment:          pulumi.String("EXECUTION_ENVIRONMENT_GEN2"),
		Timeout:                       pulumi.String(fmt.Sprintf("%ds", c.Timeout)),
		MaxInstanceRequestConcurrency: pulumi.Int(c.Concurrency),
		Scaling:                       &cloudrunv2.ServiceTemplateScalingArgs{MinInstanceCount: pulumi.Int(c.MinInstances), MaxInstanceCount: pulumi.Int(c.MaxInstances)},
		Volumes: cloudrunv2.ServiceTemplateVolumeArray{
			secret("admin", a.AdminToken, "token"),
			secret("collector", a.Collector, "config.yaml"),
		},
		Containers: cloudrunv2.ServiceTemplateContainerArray{
			&cloudrunv2.ServiceTemplateContainerArgs{
				Name: pulumi.String("server"), Image: pulumi.String(image), Envs: env,
				Ports:        cloudrunv2.ServiceTemplateContainerPortArray{&cloudrunv2.ServiceTemplateContainerPortArgs{Name: pulumi.String("http1"), ContainerPort: pulumi.Int(serverPort)}},
				VolumeMounts: cloudrunv2.ServiceTemplateContainerVolumeMountArray{mount("admin", "/etc/fakeart/admin")},
				Resources: &cloudrunv2.ServiceTemplateContainerResourcesArgs{
					Limits: pulumi.StringMap{"cpu": pulumi.String(fmt.Sprint(c.CPU)), "memory": pulumi.String(c.Memory)},
					// The collector works between requests, too; without its core it would lose samples.
					CpuIdle: pulumi.Bool(false), StartupCpuBoost: pulumi.Bool(true),
				},
				StartupProbe: &cloudrunv2.ServiceTemplateContainerStartupProbeArgs{
					// Not /readyz, which needs a model: if a service's first revision fails its probe, Pulumi doesn't
					// record the service, and each later up ends with 409 "already exists".
					HttpGet:       &cloudrunv2.ServiceTemplateContainerStartupProbeHttpGetArgs{Path: pulumi.String("/healthz"), Port: pulumi.Int(serverPort)},
					PeriodSeconds: pulumi.Int(2), TimeoutSeconds: pulumi.Int(1), FailureThreshold: pulumi.Int(30),
				},
				LivenessProbe: &cloudrunv2.ServiceTemplateContainerLivenessProbeArgs{
					HttpGet:       &cloudrunv2.ServiceTemplateContainerLivenessProbeHttpGetArgs{Path: pulumi.String("/healthz"), Port: pulumi.Int(serverPort)},
					PeriodSeconds: pulumi.Int(15), TimeoutSeconds: pulumi.Int(5), FailureThreshold: pulumi.Int(3),
				},
			},
			&cloudrunv2.ServiceTemplateContainerArgs{
				Name: pulumi.String("collector"), Image: pulumi.String(c.CollectorImage), DependsOns: pulumi.ToStringArray([]string{"server"}),
				VolumeMounts: cloudrunv2.ServiceTemplateContainerVolumeMountArray{mount("collector", "/etc/rungmp")},
				Resources: &cloudrunv2.ServiceTemplateContainerResourcesArgs{
					Limits: pulumi.StringMap{"cpu": pulumi.String("1"), "memory": pulumi.String("512Mi")},
					// Both containers say the same, or the provider finds a difference each time.
					CpuIdle: pulumi.Bool(false), StartupCpuBoost: pulumi.Bool(true),
				},
				LivenessProbe: &cloudrunv2.ServiceTemplateContainerLivenessProbeArgs{
					HttpGet:       &cloudrunv2.ServiceTemplateContainerLivenessProbeHttpGetArgs{Path: pulumi.String("/liveness"), Port: pulumi.Int(13133)},
					PeriodSeconds: pulumi.Int(30), TimeoutSeconds: pulumi.Int(10), FailureThreshold: pulumi.Int(3),
				},
			},
		},
	}
	if c.KMSKey != "" {
		t.EncryptionKey = pulumi.String(c.KMSKey)
	}
	if v := c.VPC; v != nil {
		direct := &cloudrunv2.ServiceTemplateVpcAccessNetworkInterfaceArgs{Network: pulumi.String(v.Network), Subnetwork: pulumi.String(v.Subnetwork)}
		if len(v.Tags) > 0 {
			direct.Tags = pulumi.ToStringArray(v.Tags)
		}
		t.VpcAccess = &cloudrunv2.ServiceTemplateVpcAccessArgs{
			Egress: pulumi.String(egresses[v.Egress]), NetworkInterfaces: cloudrunv2.ServiceTemplateVpcAccessNetworkInterfaceArray{direct},
		}
	}
	text, err := json.Marshal([]any{t, collectorConfig})
	if err != nil {
		return nil, fmt.Errorf("name the revision: %w", err)
	}
	t.Revision = pulumi.String(a.Stack.Named("server") + "-" + shortHash(string(text)))
	t.ServiceAccount = a.Account
	return t, nil
}
