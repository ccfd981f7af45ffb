package cluster

// StoredTypes is a version in which objects of some kinds may be stored in etcd.
type StoredTypes struct {
	// APIVersion is group/version.
	APIVersion string
	// Resources are the plural names of the kinds.
	Resources []string
}

// appeared and gone are the versions of built-in kinds that API servers know since a minor release, or no longer know. They are
// what the lists of APIs of two releases differ in (api/discovery in Kubernetes' sources), as far as objects can be stored in
// them: an API server of the one release cannot read what that of the other one wrote.
var (
	appeared = map[string][]StoredTypes{
		"1.37": {
			{"certificates.k8s.io/v1", []string{"clustertrustbundles", "podcertificaterequests"}},
			{"lifecycle.k8s.io/v1alpha1", []string{"evictions", "evictionrequests"}},
			{"resource.k8s.io/v1", []string{"devicetaintrules"}},
			{"scheduling.k8s.io/v1alpha3", []string{"compositepodgroups", "podgroups", "workloads"}},
			{"scheduling.k8s.io/v1beta1", []string{"podgroups", "workloads"}},
			{"storagemigration.k8s.io/v1", []string{"storageversionmigrations"}},
		},
	}
	gone = map[string][]StoredTypes{
		"1.37": {{"scheduling.k8s.io/v1alpha2", []string{"podgroups", "workloads"}}},
	}
)

// Unreadable are the versions of built-in kinds that API servers of a Kubernetes version do not know, although those of a
// neighboring minor release do.
func Unreadable(kubernetes string) (out []StoredTypes) {
	to, ok := number(kubernetes)
	if !ok {
		return nil
	}
	for since, types := range appeared {
		if n, ok := number(since); ok && apart(n, to) == 1 {
			out = append(out, types...)
		}
	}
	for since, types := range gone {
		if n, ok := number(since); ok && apart(n, to) == 0 {
			out = append(out, types...)
		}
	}
	return out
}
