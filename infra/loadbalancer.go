package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/cloudrunv2"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/projects"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// LoadBalancer is a global external HTTPS load balancer in front of the service, with Cloud Armor
// and, if the stack configures an OAuth client, Identity-Aware Proxy.
type LoadBalancer struct {
	pulumi.ResourceState

	// Address is the IP address for the domain's A record.
	Address pulumi.StringOutput
}

// LoadBalancerArgs are the arguments of NewLoadBalancer.
type LoadBalancerArgs struct {
	Stack *Stack
	// Balancer is the value of the stack's key loadBalancer.
	Balancer *Balancer
	// Domain is the service's domain, for which the certificate is issued.
	Domain string
	// Service is the backend.
	Service *cloudrunv2.Service
	// IAPSecret is the secret of the OAuth client Balancer.IAPClientID, if any.
	IAPSecret pulumi.StringPtrOutput
}

// providerVersion is the version of the provider. It must be the same as in go.mod.
const providerVersion = "7.38.0"

// rawResource is a resource registered by type token instead of the SDK's types, because the SDK's
// package for Compute Engine takes 4 GiB of memory and minutes to compile.
type rawResource struct {
	pulumi.CustomResourceState

	SelfLink pulumi.StringOutput `pulumi:"selfLink"`
	Name     pulumi.StringOutput `pulumi:"name"`
	Address  pulumi.StringOutput `pulumi:"address"`
}

// newRaw registers a resource of a kind such as compute/URLMap. The Pulumi registry documents the
// properties. Only the provider checks them.
func newRaw(ctx *pulumi.Context, kind, name string, properties pulumi.Map, opts ...pulumi.ResourceOption) (*rawResource, error) {
	module, title, _ := strings.Cut(kind, "/")
	token := fmt.Sprintf("gcp:%s/%s:%s", module, strings.ToLower(title[:1])+title[1:], title)
	r := &rawResource{}
	return r, ctx.RegisterResource(token, name, properties, r, append(opts, pulumi.Version(providerVersion))...)
}

// wafRules maps the names allowed in loadBalancer.waf to Google's preconfigured rules. Priorities
// are fixed, so that adding or removing a rule doesn't change the others.
var wafRules = map[string]struct {
	priority int
	set      string
}{
	"sqli":             {1000, "sqli-v33-stable"},
	"xss":              {1010, "xss-v33-stable"},
	"lfi":              {1020, "lfi-v33-stable"},
	"rce":              {1030, "rce-v33-stable"},
	"rfi":              {1040, "rfi-v33-stable"},
	"scannerdetection": {1050, "scannerdetection-v33-stable"},
	"protocolattack":   {1060, "protocolattack-v33-stable"},
	"sessionfixation":  {1070, "sessionfixation-v33-stable"},
	"cve":              {1080, "cve-canary"},
}

const (
	// ratePriority places the rate limit after the preconfigured rules: it allows requests within
	// the limit, and no further rule is evaluated.
	ratePriority    = 10000
	defaultPriority = 2147483647
	// imagePaths matches the routes that accept image files. They are exempt from the preconfigured
	// rules, which report false positives in the files' bytes.
	imagePaths = `^/(predict|model/?|v2/models/.+/infer)$`
)

// NewLoadBalancer creates the load balancer. Google issues the certificate once the domain's DNS
// record points to Address. Until then, HTTPS connections fail.
func NewLoadBalancer(ctx *pulumi.Context, name string, args *LoadBalancerArgs, opts ...pulumi.ResourceOption) (*LoadBalancer, error) {
	l := &LoadBalancer{}
	if err := register(ctx, "LoadBalancer", name, l, opts...); err != nil {
		return nil, err
	}
	stack := args.Stack
	made := map[string]*rawResource{}
	create := func(kind, suffix, called string, properties pulumi.Map, opts ...pulumi.ResourceOption) error {
		properties["project"], properties["name"] = pulumi.String(stack.Project), pulumi.String(stack.Named(called))
		r, err := newRaw(ctx, kind, name+suffix, properties, stack.In(l, opts...))
		made[kind+suffix] = r
		return err
	}
	if err := create("compute/GlobalAddress", "", "lb", pulumi.Map{"labels": stack.Labels("load-balancer")}); err != nil {
		return nil, err
	}
	l.Address = made["compute/GlobalAddress"].Address
	backend, err := l.backend(ctx, name, args)
	if err != nil {
		return nil, err
	}
	// A certificate can't be changed, nor deleted while the proxy uses it. Its name contains a hash
	// of the domain, so that a certificate for another domain can be created before the old one is
	// deleted. By default, the provider deletes resources with explicit names first.
	if err := create("compute/ManagedSslCertificate", "", "lb-"+shortHash(args.Domain), pulumi.Map{
		"managed": pulumi.Map{"domains": pulumi.ToStringArray([]string{args.Domain})},
	}, pulumi.DeleteBeforeReplace(false)); err != nil {
		return nil, err
	}
	if err := create("compute/SSLPolicy", "", "lb", pulumi.Map{"minTlsVersion": pulumi.String("TLS_1_2"), "profile": pulumi.String("MODERN")}); err != nil {
		return nil, err
	}
	if err := create("compute/URLMap", "", "lb", pulumi.Map{"defaultService": backend.SelfLink}); err != nil {
		return nil, err
	}
	if err := create("compute/TargetHttpsProxy", "", "lb", pulumi.Map{
		"urlMap": made["compute/URLMap"].SelfLink, "sslPolicy": made["compute/SSLPolicy"].SelfLink,
		"sslCertificates": pulumi.StringArray{made["compute/ManagedSslCertificate"].SelfLink},
	}); err != nil {
		return nil, err
	}
	if err := create("compute/URLMap", "-redirect", "lb-redirect", pulumi.Map{"defaultUrlRedirect": pulumi.Map{
		"httpsRedirect": pulumi.Bool(true), "stripQuery": pulumi.Bool(false), "redirectResponseCode": pulumi.String("MOVED_PERMANENTLY_DEFAULT"),
	}}); err != nil {
		return nil, err
	}
	if err := create("compute/TargetHttpProxy", "", "lb", pulumi.Map{"urlMap": made["compute/URLMap-redirect"].SelfLink}); err != nil {
		return nil, err
	}
	for scheme, target := range map[string]string{"https": "compute/TargetHttpsProxy", "http": "compute/TargetHttpProxy"} {
		if err := create("compute/GlobalForwardingRule", "-"+scheme, "lb-"+scheme, pulumi.Map{
			"loadBalancingScheme": pulumi.String("EXTERNAL_MANAGED"), "ipProtocol": pulumi.String("TCP"), "ipAddress": l.Address,
			"portRange": pulumi.String(map[string]string{"https": "443", "http": "80"}[scheme]), "target": made[target].SelfLink,
			"labels": stack.Labels("load-balancer"),
		}); err != nil {
			return nil, err
		}
	}
	return l, ctx.RegisterResourceOutputs(l, pulumi.Map{"address": l.Address})
}

// backend creates the backend service, with Cloud Armor and, if configured, Identity-Aware Proxy.
func (l *LoadBalancer) backend(ctx *pulumi.Context, name string, args *LoadBalancerArgs) (*rawResource, error) {
	stack, b := args.Stack, args.Balancer
	project, called := pulumi.String(stack.Project), pulumi.String(stack.Named("lb"))
	group, err := newRaw(ctx, "compute/RegionNetworkEndpointGroup", name, pulumi.Map{
		"project": project, "region": pulumi.String(stack.Region), "name": called, "networkEndpointType": pulumi.String("SERVERLESS"),
		"cloudRun": pulumi.Map{"service": args.Service.Name},
	}, stack.In(l))
	if err != nil {
		return nil, err
	}
	armor, err := newRaw(ctx, "compute/SecurityPolicy", name, pulumi.Map{
		"project": project, "name": called, "description": pulumi.String("Requests to Fakeart"), "type": pulumi.String("CLOUD_ARMOR"), "rules": b.rules(),
		// Otherwise the quotes and braces of a JSON body look like an attack.
		"advancedOptionsConfig": pulumi.Map{"jsonParsing": pulumi.String("STANDARD"), "logLevel": pulumi.String("NORMAL")},
	}, stack.In(l))
	if err != nil {
		return nil, err
	}
	backend := pulumi.Map{
		"project": project, "name": called, "loadBalancingScheme": pulumi.String("EXTERNAL_MANAGED"), "protocol": pulumi.String("HTTPS"),
		"backends":       pulumi.Array{pulumi.Map{"group": group.SelfLink}},
		"securityPolicy": armor.SelfLink,
		// Cloud Armor's decisions are only in these logs.
		"logConfig": pulumi.Map{"enable": pulumi.Bool(true), "sampleRate": pulumi.Float64(1)},
	}
	if b.IAPClientID == "" {
		return newRaw(ctx, "compute/BackendService", name, backend, stack.In(l))
	}
	backend["iap"] = pulumi.Map{"oauth2ClientId": pulumi.String(b.IAPClientID), "oauth2ClientSecret": args.IAPSecret}
	// The proxy calls the service as a service agent, which a new project doesn't have.
	agent, err := projects.NewServiceIdentity(ctx, name+"-iap", &projects.ServiceIdentityArgs{Project: project, Service: pulumi.String("iap.googleapis.com")}, stack.In(l))
	if err != nil {
		return nil, err
	}
	calls, err := cloudrunv2.NewServiceIamMember(ctx, name+"-iap", &cloudrunv2.ServiceIamMemberArgs{
		Project: args.Service.Project, Location: args.Service.Location, Name: args.Service.Name, Role: pulumi.String("roles/run.invoker"),
		Member: pulumi.String("serviceAccount:service-" + stack.Number + "@gcp-sa-iap.iam.gserviceaccount.com"),
	}, stack.In(l, pulumi.DependsOn([]pulumi.Resource{agent})))
	if err != nil {
		return nil, err
	}
	made, err := newRaw(ctx, "compute/BackendService", name, backend, stack.In(l, pulumi.DependsOn([]pulumi.Resource{calls})))
	if err != nil {
		return nil, err
	}
	for _, m := range b.IAPMembers {
		if _, err := newRaw(ctx, "iap/WebBackendServiceIamMember", name+"-iap-"+shortHash(m), pulumi.Map{
			"project": project, "webBackendService": made.Name, "role": pulumi.String("roles/iap.httpsResourceAccessor"), "member": pulumi.String(m),
		}, stack.In(l)); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// rules returns the Cloud Armor rules in order of priority. The first match decides.
func (b *Balancer) rules() (rules pulumi.Array) {
	everyone := pulumi.Map{"versionedExpr": pulumi.String("SRC_IPS_V1"), "config": pulumi.Map{"srcIpRanges": pulumi.ToStringArray([]string{"*"})}}
	for _, name := range slices.SortedFunc(slices.Values(b.WAF), func(x, y string) int { return wafRules[x].priority - wafRules[y].priority }) {
		rule := wafRules[name]
		rules = append(rules, pulumi.Map{
			"priority": pulumi.Int(rule.priority), "action": pulumi.String("deny(403)"), "preview": pulumi.Bool(!b.WAFEnforce), "description": pulumi.String(rule.set),
			"match": pulumi.Map{"expr": pulumi.Map{"expression": pulumi.String(
				fmt.Sprintf("!request.path.matches('%s') && evaluatePreconfiguredWaf('%s', {'sensitivity': 1})", imagePaths, rule.set),
			)}},
		})
	}
	if b.RateLimit > 0 {
		rules = append(rules, pulumi.Map{
			"priority": pulumi.Int(ratePriority), "action": pulumi.String("throttle"), "preview": pulumi.Bool(false), "match": everyone,
			"description": pulumi.String("requests per minute and client address"),
			"rateLimitOptions": pulumi.Map{
				"conformAction": pulumi.String("allow"), "exceedAction": pulumi.String("deny(429)"), "enforceOnKey": pulumi.String("IP"),
				"rateLimitThreshold": pulumi.Map{"count": pulumi.Int(b.RateLimit), "intervalSec": pulumi.Int(60)},
			},
		})
	}
	return append(rules, pulumi.Map{
		"priority": pulumi.Int(defaultPriority), "action": pulumi.String("allow"), "preview": pulumi.Bool(false), "match": everyone,
		"description": pulumi.String("everything else"),
	})
}
