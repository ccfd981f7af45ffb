package facts

// Upgrade is what has to be known of a cluster before its version changes, beyond an Observation.
type Upgrade struct {
	// Deprecated are the deprecated APIs that clients have used since the API servers started.
	Deprecated []DeprecatedAPI `json:"deprecated,omitempty"`
	// DeprecatedError is why API servers could not be asked.
	DeprecatedError string `json:"deprecatedError,omitempty"`
	// Webhooks are those that fail closed and that a Service of the cluster answers.
	Webhooks []Webhook `json:"webhooks,omitempty"`
	// Budgets are the disruption budgets that allow no eviction now, as namespace/name.
	Budgets []string `json:"budgets,omitempty"`
	// Error is why webhooks and budgets could not be read.
	Error string `json:"error,omitempty"`
}

// DeprecatedAPI is a version of a resource that API servers will not serve for ever.
type DeprecatedAPI struct {
	Group    string `json:"group"`
	Version  string `json:"version"`
	Resource string `json:"resource"`
	// RemovedIn is the minor release that no longer serves it, such as 1.38; empty if that is not decided.
	RemovedIn string `json:"removedIn"`
}
