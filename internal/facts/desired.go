package facts

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
)

// File is a file as it should be. With Block set only the marked block of that name inside it is managed,
// and the rest of the file belongs to others.
type File struct {
	Path    string      `json:"path"`
	Mode    fs.FileMode `json:"mode,omitempty"` // 0 means 0644
	Content string      `json:"content"`
	Block   string      `json:"block,omitempty"`
	// ClusterCA says that the content is the cluster's CA certificate. It is empty in a plan that is made before there is one.
	ClusterCA bool `json:"clusterCA,omitempty"`
	// Keep saves a file that Quorate did not write next to the new one, with the suffix KeptSuffix.
	Keep bool `json:"keep,omitempty"`
	// Restart names the units that must be restarted when the file has changed, and Reload those for which reloading is
	// enough. A unit in both is restarted.
	Restart []string `json:"restart,omitempty"`
	Reload  []string `json:"reload,omitempty"`
	// Check is a command that must succeed on the new content before the file is replaced. The path of a file with that
	// content is its last argument.
	Check []string `json:"check,omitempty"`
}

// KeptSuffix is the suffix of the saved file.
const KeptSuffix = ".before-quorate"

// Key identifies a file, or a block within a file.
func (f File) Key() string {
	if f.Block != "" {
		return f.Path + "#" + f.Block
	}
	return f.Path
}

// Sum is the SHA-256 of the content in hex: what Facts report for the same Key when nothing is to do.
func (f File) Sum() string { return Sum([]byte(f.Content)) }

// Sum is the SHA-256 of b in hex.
func Sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// Desired is how part of a host should be.
type Desired struct {
	Files []File `json:"files,omitempty"`
	// Modules are kernel modules to load; one that is built in or absent is not an error here: preflight judges that.
	Modules []string `json:"modules,omitempty"`
	// Sysctls are applied immediately; a file in Files keeps them after a reboot.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Absent are paths of files that were desired once. A directory that is empty without them goes with them.
	Absent []string `json:"absent,omitempty"`
	// Self is a path that becomes a copy of the quorate binary that runs on the host now, for units to use.
	Self string `json:"self,omitempty"`
	// EtcdGuard arms the guard that keeps a stacked etcd member from starting without its data, on a host that carries
	// EstablishedFile.
	EtcdGuard bool `json:"etcdGuard,omitempty"`
	// Enable names units to enable and start.
	Enable []string `json:"enable,omitempty"`
}

// MaxShown is the size of the largest file that a host shows for a diff.
const MaxShown = 128 << 10

// Shown is a file, or a block in one, as a host has it.
type Shown struct {
	Content string `json:"content,omitempty"`
	// Withheld is why the content is not shown: it may contain a secret, it is too large, or it is not text.
	Withheld string `json:"withheld,omitempty"`
}
