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

// serverPort is the server's container port. The collector scrapes its metrics there.
const serverPort = 8080

// Service is the server on Cloud Run, with a sidecar that collects its metrics.
type Service struct {
	pulumi.ResourceState

	Service *cloudrunv2.Service
	// URL is the service's URL and Host the host in it. CanaryURL is the URL of the canary, which
	// doesn't depend on its percentage. It is empty without a canary.
	URL, Host, CanaryURL pulumi.StringOutput
}

// ServiceArgs are the arguments of NewService.
type ServiceArgs struct {
	Stack  *Stack
	Config *Config
	// Account and Deployer are email addresses of service accounts: the one that the service runs
	// as, and the one that may deploy revisions.
	Account, Deployer pulumi.StringOutput
	// Bucket is the name of the bucket with the models. Topic and FeedbackTopic are the names of
	// the topics for prediction records and feedback.
	Bucket, Topic, FeedbackTopic string
	// AdminToken and Collector are names of secrets.
	AdminToken, Collector string
	// Ready holds the secrets and grants that must exist before an instance starts.
	Ready []pulumi.Resource
}

// NewService creates the service, its access grants and, for a domain without a load balancer, the
// domain mapping.
//
// The name of a revision contains a hash of its template. During a canary, the stable revision is
// therefore the one that existed before, and ending the canary creates no new revision.
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
		Description: pulumi.String("Classifies images"), Labels: stack.Labels("service"),
		Ingress: pulumi.String(ingresses[c.Ingress]), Template: latest, Traffics: traffic,
	}
	if audiences := c.audiences(); len(audiences) > 0 {
		service.CustomAudiences = pulumi.ToStringArray(audiences)
	}
	// Cloud Run adds a scaling block of its own to each service.
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
			// Any change replaces the mapping, and a domain can have only one.
		}, stack.In(s, pulumi.DeleteBeforeReplace(true)))
		if err != nil {
			return nil, err
		}
		s.URL = pulumi.Sprintf("https://%s", mapping.Name)
	}
	return s, ctx.RegisterResourceOutputs(s, pulumi.Map{"url": s.URL, "name": s.Service.Name})
}

// canaryURL returns the URL of the revision with the tag canary, given the service's URL
// (https://cloud.google.com/run/docs/rollouts-rollbacks-traffic-migration#tags).
func canaryURL(service string) string {
	return strings.Replace(service, "https://", "https://canary---", 1)
}

// access grants the roles to call the service and to deploy its revisions.
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
		// The name depends only on the member, so that removing one from the list keeps the others.
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

// shortHash returns a hash of eight hexadecimal digits, for use in resource names.
func shortHash(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:4])
}

// models returns the value of the server's flag --model. Without the key models, it is the folder of
// production models.
func (a *ServiceArgs) models() string {
	folder := "gs://" + a.Bucket + "/" + modelsFolder
	if len(a.Config.Models) == 0 {
		return folder
	}
	var all []string
	for _, text := range a.Config.Models {
		if !strings.Contains(text, "=") {
			text += "=" + folder + text + "/"
		}
		all = append(all, text)
	}
	return strings.Join(all, ",")
}

// env returns the server's environment variables, which docs/how-to/operate.md explains. None is
// secret.
func (a *ServiceArgs) env() [][2]string {
	quarter := fmt.Sprint(mebibytes(a.Config.Memory) << 20 / 4)
	return [][2]string{
		{"FAKEART_ADMIN_TOKEN_FILE", "/etc/fakeart/admin/token"},
		{"FAKEART_FEEDBACK_TOPIC", fmt.Sprintf("gcppubsub://projects/%s/topics/%s", a.Stack.Project, a.FeedbackTopic)},
		{"FAKEART_LOG_FORMAT", "json"},
		// The outbox for unsent records is in memory, because Cloud Run's file system is.
		{"FAKEART_LOG_PATH", "/tmp/outbox.db"},
		{"FAKEART_LOG_STORE", "pubsub"},
		{"FAKEART_LOG_TOPIC", fmt.Sprintf("gcppubsub://projects/%s/topics/%s", a.Stack.Project, a.Topic)},
		// The first limit applies separately to request bodies, to decoding and to waiting images. The program itself has
		// enough memory, because hardly ever do all of them reach their limits at the same time.
		{"FAKEART_MAX_MEMORY", quarter},
		{"FAKEART_MODEL", a.models()},
		{"FAKEART_MODEL_MEMORY", quarter},
		{"FAKEART_MODEL_SOURCE", "gs://" + a.Bucket + "/models/"},
		{"FAKEART_MODEL_WATCH", "30s"},
		{"FAKEART_REQUEST_TIMEOUT", "10s"},
		{"GOOGLE_CLOUD_PROJECT", a.Stack.Project},
	}
}

// template returns the template of a revision with the given container image of the server. The
// revision's name ends in a hash of the template and the collector's configuration. The service
// account isn't part of the hash: its address isn't known in a preview, and it never changes.
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
					// The collector also works between requests. Without CPU it would lose samples.
					CpuIdle: pulumi.Bool(false), StartupCpuBoost: pulumi.Bool(true),
				},
				StartupProbe: &cloudrunv2.ServiceTemplateContainerStartupProbeArgs{
					// Not /readyz, which requires a model: if the first revision of a service fails its probe, Pulumi
					// doesn't record the service, and each later update fails with 409 "already exists".
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
					// The same for both containers, or each preview shows a diff.
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
