package facts

// Security is what a host shows of how it is secured: modes, owners, arguments, and no secrets.
type Security struct {
	// Files are modes and owners by path.
	Files map[string]Mode `json:"files"`
	// Programs are the settings with which Kubernetes' programs run now, by program: arguments without their dashes, and for
	// etcd the variables that mean the same (ETCD_CERT_FILE is cert-file).
	Programs map[string]map[string]string `json:"programs"`
	// AuditPolicy and Authentication are the API server's files.
	AuditPolicy    string `json:"auditPolicy,omitempty"`
	Authentication string `json:"authentication,omitempty"`
	// EncryptionProviders are the providers for secrets, the one that encrypts first.
	EncryptionProviders []string `json:"encryptionProviders,omitempty"`
	// Authorities are the SHA-256 of CA certificates by path: kubeadm's, and those that the programs name.
	Authorities map[string]string `json:"authorities"`
	// ServingIssuer says who signed the kubelet's serving certificate: "cluster", "other", or nothing when there is none.
	ServingIssuer string `json:"servingIssuer,omitempty"`
}

// Mode is a file's mode and owner.
type Mode struct {
	Bits  uint32 `json:"bits"` // permission bits
	Owner string `json:"owner"`
	Group string `json:"group"`
}
