package backup

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Name is what the name of a backup says without its content. Several clusters can share a store: retention looks only at
// backups of the same cluster.
type Name struct {
	Cluster string    `json:"cluster"`
	UID     string    `json:"uid"` // the beginning of the cluster's UID
	Time    time.Time `json:"time"`
	Host    string    `json:"host"`
}

const (
	timeLayout = "20060102T150405Z"
	// uidLength is enough to tell the clusters of a name apart that somebody may have had.
	uidLength = 8
)

var namePattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?)\.([0-9a-f]{8})\.([0-9]{8}T[0-9]{6}Z)\.([a-z0-9]([a-z0-9-]*[a-z0-9])?)\.backup\.age$`)

// NameOf is the name of a backup.
func NameOf(m Manifest) Name {
	return Name{m.Cluster.Name, short(m.Cluster.UID), m.Created.UTC().Truncate(time.Second), m.Host}
}

func short(uid string) string { return uid[:min(uidLength, len(uid))] }

// String is the name of the file: cluster.uid.time.host.backup.age.
func (n Name) String() string {
	return fmt.Sprintf("%s.%s.%s.%s.backup.age", n.Cluster, n.UID, n.Time.UTC().Format(timeLayout), n.Host)
}

// ParseName reads the name of a file. It is false for files that are no backups.
func ParseName(file string) (Name, bool) {
	m := namePattern.FindStringSubmatch(file)
	if m == nil {
		return Name{}, false
	}
	at, err := time.Parse(timeLayout, m[4])
	return Name{m[1], m[3], at, m[5]}, err == nil
}

// Of says that the backup is one of a cluster with this name and UID. Without a UID, the name decides.
func (n Name) Of(cluster, uid string) bool {
	return n.Cluster == cluster && (uid == "" || n.UID == short(uid))
}

// Entry is a backup in a store.
type Entry struct {
	Name
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

// Newest sorts entries by time, the newest first.
func Newest(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.File, b.File)) })
}
