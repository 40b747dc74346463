package main

func deploy() {
	outputs := pulumi.Map{
		"registry": registry, "workloadIdentityProvider": provider,
	}
	if image {
		outputs["url"], outputs["canaryUrl"] = url, canary
	}
	others := pulumi.Map{"other": 1}
}
