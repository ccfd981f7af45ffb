// Command flannel is the CNI plugin of a flannel network. It holds no networking of its own: it turns
// what flanneld wrote about this node (/run/flannel/subnet.env) into the configuration of another
// plugin, usually bridge with host-local addresses, and delegates to that.
//
// It reads the same network configuration as the plugin of the flannel project, whose module no
// proxy serves.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/utils/buildversion"
)

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    func(args *skel.CmdArgs) error { return add(args, nil) },
		Del:    func(args *skel.CmdArgs) error { return del(args, nil) },
		Check:  func(args *skel.CmdArgs) error { return check(args, nil) },
		GC:     func(args *skel.CmdArgs) error { return gc(args, nil) },
		Status: func(args *skel.CmdArgs) error { return status(args, nil) },
	}, version.All, buildversion.BuildString("flannel"))
}

// add delegates with the node's subnet as it is now, and keeps the delegate's configuration: when the
// container goes, the subnet may be another one, or subnet.env may be gone after a reboot.
func add(args *skel.CmdArgs, exec invoke.Exec) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	delegate, err := conf.present()
	if err != nil {
		return err
	}
	raw, err := delegate.encode()
	if err != nil {
		return err
	}
	if err := conf.record(args).save(raw); err != nil {
		return err
	}
	result, err := invoke.DelegateAdd(context.Background(), delegate.plugin(), raw, exec)
	if err != nil {
		return fmt.Errorf("delegate ADD to %s: %w", delegate.plugin(), err)
	}
	return result.Print()
}

// present is the delegate's configuration with the node's subnet as it is now.
func (c *config) present() (delegate, error) {
	node, err := readSubnet(c.SubnetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, types.NewError(types.ErrTryAgainLater, "flanneld is not ready on this node", err.Error())
	}
	if err != nil {
		return nil, err
	}
	return c.delegate(node)
}

// del succeeds when nothing is recorded: the runtime repeats DEL until it succeeds, and calls it for
// containers whose ADD never ran.
func del(args *skel.CmdArgs, exec invoke.Exec) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	record := conf.record(args)
	delegate, err := record.load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errDamaged):
		// Without DEL, the container would never start again. The present configuration differs at most in the subnet.
		delegate, err = conf.present()
	}
	if err != nil {
		return err
	}
	// What the runtime passes now (port mappings, the result of ADD) belongs to this call, not to the record.
	raw, err := delegate.with(conf).encode()
	if err != nil {
		return err
	}
	if err := invoke.DelegateDel(context.Background(), delegate.plugin(), raw, exec); err != nil {
		return fmt.Errorf("delegate DEL to %s: %w", delegate.plugin(), err)
	}
	return record.remove()
}

func check(args *skel.CmdArgs, exec invoke.Exec) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	delegate, err := conf.record(args).load()
	if errors.Is(err, fs.ErrNotExist) {
		return types.NewError(types.ErrUnknownContainer, "no ADD is recorded for this container", err.Error())
	}
	if err != nil {
		return err
	}
	raw, err := delegate.with(conf).encode()
	if err != nil {
		return err
	}
	if err := invoke.DelegateCheck(context.Background(), delegate.plugin(), raw, exec); err != nil {
		return fmt.Errorf("delegate CHECK to %s: %w", delegate.plugin(), err)
	}
	return nil
}

// gc forgets the attachments that are no longer valid and lets the delegate do the same.
func gc(args *skel.CmdArgs, exec invoke.Exec) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if conf.ValidAttachments == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "GC without cni.dev/valid-attachments", "")
	}
	return errors.Join(conf.prune(), forward(conf, exec, invoke.DelegateGC, "GC"))
}

// status reports whether an ADD could work now: without a subnet it could not.
func status(args *skel.CmdArgs, exec invoke.Exec) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if _, err := readSubnet(conf.SubnetFile); err != nil {
		return types.NewError(errPluginNotAvailable, "flanneld is not ready on this node", err.Error())
	}
	return forward(conf, exec, invoke.DelegateStatus, "STATUS")
}

// errPluginNotAvailable is the CNI specification's code for "cannot service ADD requests".
const errPluginNotAvailable = 50

// forward calls the delegate for the network as a whole, with its configuration for the present subnet.
func forward(conf *config, exec invoke.Exec, call func(context.Context, string, []byte, invoke.Exec) error, verb string) error {
	node, err := readSubnet(conf.SubnetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	delegate, err := conf.delegate(node)
	if err != nil {
		return err
	}
	raw, err := delegate.with(conf).encode()
	if err != nil {
		return err
	}
	if err := call(context.Background(), delegate.plugin(), raw, exec); err != nil {
		return fmt.Errorf("delegate %s to %s: %w", verb, delegate.plugin(), err)
	}
	return nil
}
