// Package translations keeps kubectl's translations out of the other programs. kubectl loads them while its packages are
// initialized, which every start of every program in the binary would pay for.
//
// It has to be initialized before any package of kubectl's that holds a message. Go takes packages that are ready in the order
// of their import paths: so this module's path sorts before k8s.io.
package translations

import (
	"os"
	"path/filepath"

	"k8s.io/kubectl/pkg/util/i18n"
)

func init() {
	if filepath.Base(os.Args[0]) == "kubectl" {
		return
	}
	if err := i18n.SetLoadTranslationsFunc(func() error { return nil }); err != nil {
		panic("kubectl's messages were initialized before this package: " + err.Error())
	}
}
