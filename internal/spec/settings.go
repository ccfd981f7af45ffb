package spec

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Settings change how the cluster's programs and its nodes run. A setting that is left out keeps its default; one that is
// removed gets it back.
type Settings struct {
	// FeatureGates switches Kubernetes features on or off in the API servers, controller managers, schedulers, and kubelets.
	FeatureGates map[string]bool `yaml:"featureGates,omitempty" json:"featureGates,omitempty" edit:"rolling"`
	// APIServer holds the settings of the API servers.
	APIServer APIServerSettings `yaml:"apiServer,omitempty" json:"apiServer,omitempty"`
	// ControllerManager holds the settings of the controller managers.
	ControllerManager ProgramSettings `yaml:"controllerManager,omitempty" json:"controllerManager,omitempty"`
	// Scheduler holds the settings of the schedulers.
	Scheduler ProgramSettings `yaml:"scheduler,omitempty" json:"scheduler,omitempty"`
	// Kubelet holds the settings of the kubelets on all nodes.
	Kubelet KubeletSettings `yaml:"kubelet,omitempty" json:"kubelet,omitempty"`
	// DNS holds the settings of CoreDNS.
	DNS DNSSettings `yaml:"dns,omitempty" json:"dns,omitempty"`
	// Registries are image registries that the nodes reach through mirrors.
	Registries []Registry `yaml:"registries,omitempty" json:"registries,omitempty" edit:"rolling"`
	// Sysctls are kernel settings of all nodes, such as vm.max_map_count.
	Sysctls map[string]string `yaml:"sysctls,omitempty" json:"sysctls,omitempty" edit:"rolling"`
}

// APIServerSettings are the settings of the API servers.
type APIServerSettings struct {
	// ExtraArgs are arguments of kube-apiserver, without leading dashes.
	ExtraArgs map[string]string `yaml:"extraArgs,omitempty" json:"extraArgs,omitempty" edit:"rolling"`
	// AuditPolicyFile is an audit policy (audit.k8s.io/v1) to use instead of Quorate's, relative to the spec.
	AuditPolicyFile string `yaml:"auditPolicyFile,omitempty" json:"auditPolicyFile,omitempty" edit:"rolling,local"`
	// AuthenticationConfigFile is an AuthenticationConfiguration (apiserver.config.k8s.io/v1) with the OIDC issuers whose
	// tokens the API accepts, relative to the spec.
	AuthenticationConfigFile string `yaml:"authenticationConfigFile,omitempty" json:"authenticationConfigFile,omitempty" edit:"rolling,local"`
}

// ProgramSettings are the settings of the controller managers or the schedulers.
type ProgramSettings struct {
	// ExtraArgs are arguments of the program, without leading dashes.
	ExtraArgs map[string]string `yaml:"extraArgs,omitempty" json:"extraArgs,omitempty" edit:"rolling"`
}

// KubeletSettings are fields of the kubelets' configuration (kubelet.config.k8s.io/v1beta1).
type KubeletSettings struct {
	// MaxPods is how many pods a node runs at most. Kubernetes' default is 110.
	MaxPods int `yaml:"maxPods,omitempty" json:"maxPods,omitempty" jsonschema:"minimum=1" edit:"rolling"`
	// PodPidsLimit is how many processes a pod can have. The default is 4096.
	PodPidsLimit int `yaml:"podPidsLimit,omitempty" json:"podPidsLimit,omitempty" jsonschema:"minimum=1" edit:"rolling"`
	// SystemReserved is kept from pods for the system: cpu, memory, ephemeral-storage, and pid.
	SystemReserved map[string]string `yaml:"systemReserved,omitempty" json:"systemReserved,omitempty" edit:"rolling"`
	// KubeReserved is kept from pods for the kubelet and containerd, in addition to SystemReserved.
	KubeReserved map[string]string `yaml:"kubeReserved,omitempty" json:"kubeReserved,omitempty" edit:"rolling"`
	// EvictionHard are the limits at which the kubelet evicts pods, such as memory.available. Those that are left out keep
	// their defaults.
	EvictionHard map[string]string `yaml:"evictionHard,omitempty" json:"evictionHard,omitempty" edit:"rolling"`
	// ImageGCHighThresholdPercent is how full a disk is when the kubelet begins to remove unused images. Kubernetes' default is 85.
	ImageGCHighThresholdPercent int `yaml:"imageGCHighThresholdPercent,omitempty" json:"imageGCHighThresholdPercent,omitempty" jsonschema:"minimum=1,maximum=100" edit:"rolling"`
	// ImageGCLowThresholdPercent is how full it is when the kubelet stops removing them. Kubernetes' default is 80.
	ImageGCLowThresholdPercent int `yaml:"imageGCLowThresholdPercent,omitempty" json:"imageGCLowThresholdPercent,omitempty" jsonschema:"minimum=1,maximum=99" edit:"rolling"`
	// ContainerLogMaxSize is the size at which a container's log file is rotated. Kubernetes' default is 10Mi.
	ContainerLogMaxSize string `yaml:"containerLogMaxSize,omitempty" json:"containerLogMaxSize,omitempty" edit:"rolling"`
	// ContainerLogMaxFiles is how many log files of a container are kept. Kubernetes' default is 5.
	ContainerLogMaxFiles int `yaml:"containerLogMaxFiles,omitempty" json:"containerLogMaxFiles,omitempty" jsonschema:"minimum=2" edit:"rolling"`
	// ShutdownGracePeriod is how long pods have to end when a node is shut down, such as 60s. By default, they have no time.
	ShutdownGracePeriod string `yaml:"shutdownGracePeriod,omitempty" json:"shutdownGracePeriod,omitempty" edit:"rolling"`
	// ShutdownGracePeriodCriticalPods is the part of ShutdownGracePeriod that is kept for critical pods.
	ShutdownGracePeriodCriticalPods string `yaml:"shutdownGracePeriodCriticalPods,omitempty" json:"shutdownGracePeriodCriticalPods,omitempty" edit:"rolling"`
	// AllowedUnsafeSysctls are the kernel settings that pods can change for themselves, such as net.core.somaxconn or kernel.msg*.
	AllowedUnsafeSysctls []string `yaml:"allowedUnsafeSysctls,omitempty" json:"allowedUnsafeSysctls,omitempty" edit:"rolling,set"`
}

// DNSSettings are the settings of CoreDNS.
type DNSSettings struct {
	// Replicas is how many replicas run. By default, there are at least as many as the size of the cluster asks for, and those that
	// were added by somebody else stay.
	Replicas int `yaml:"replicas,omitempty" json:"replicas,omitempty" jsonschema:"minimum=2" edit:"rolling"`
}

// Registry is an image registry that the nodes reach through mirrors.
type Registry struct {
	// Name is the registry as image names begin with it, such as docker.io, or * for every registry that is not listed.
	Name string `yaml:"name" json:"name" edit:"rolling,key"`
	// Mirrors are URLs that are tried in this order, such as https://mirror.example.com or, with a path,
	// https://harbor.example.com/docker-hub. The registry itself comes last.
	Mirrors []string `yaml:"mirrors" json:"mirrors" jsonschema:"minItems=1" edit:"rolling"`
	// CAFile holds the CA certificates of the mirrors, if the hosts' own do not include them, relative to the spec.
	CAFile string `yaml:"caFile,omitempty" json:"caFile,omitempty" edit:"rolling,local"`
}

// Gates renders feature gates as Kubernetes' programs take them: sorted, such as A=true,B=false.
func (s Settings) Gates() string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.FeatureGates)) {
		out = append(out, name+"="+strconv.FormatBool(s.FeatureGates[name]))
	}
	return strings.Join(out, ",")
}

// SettingsFile is a file of the caller that a setting names.
type SettingsFile struct {
	// Field is where the spec names it, and Path the file.
	Field, Path string
}

// SettingsFiles are the files that the settings name. Their content belongs to the spec: see [Cluster.Attach].
func (c *Cluster) SettingsFiles() (out []SettingsFile) {
	add := func(field, path string) {
		if path != "" {
			out = append(out, SettingsFile{"spec.settings." + field, path})
		}
	}
	s := c.Spec.Settings
	add("apiServer.auditPolicyFile", s.APIServer.AuditPolicyFile)
	add("apiServer.authenticationConfigFile", s.APIServer.AuthenticationConfigFile)
	for i, r := range s.Registries {
		add("registries["+strconv.Itoa(i)+"].caFile", r.CAFile)
	}
	return out
}

// Attach gives the spec the content of a file that a setting names, or returns why it cannot be used.
func (c *Cluster) Attach(f SettingsFile, content []byte) error {
	if problem, fix := judge(f.Field, content); problem != "" {
		return c.Wrong(f.Field, f.Path+" "+problem, fix)
	}
	files := maps.Clone(c.files)
	if files == nil {
		files = map[string]string{}
	}
	files[f.Path] = string(content)
	c.files = files
	return nil
}

// Contents are all files that were attached, by path.
func (c *Cluster) Contents() map[string]string { return maps.Clone(c.files) }

// WithContents is the spec with these files attached, which were attached to it elsewhere.
func (c *Cluster) WithContents(files map[string]string) *Cluster {
	out := *c
	out.files = maps.Clone(files)
	return &out
}

// Content is what was attached for the path; empty for a spec that names no such file, such as a recorded one.
func (c *Cluster) Content(path string) string { return c.files[path] }
