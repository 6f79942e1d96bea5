package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"kubernaut.ai/notification/api/v1alpha1"
)

// outage is how long a program stays away that has ended.
const outage = 15 * time.Second

// process is a program of bin/ that may be started again after it has ended.
type process struct {
	name string
	args []string

	cmd    *exec.Cmd
	waited chan struct{} // closed when it has ended
	err    error         // set before that
}

// failure says that a process has ended, and how.
func (p *process) failure() error {
	return fmt.Errorf("bin/%s has ended (%s)", p.name, p.cmd.ProcessState)
}

// start runs a program. What it prints for people appears here, its log in a file,
// and its number in another for those who want to kill it. When it ends, d.ended
// has it, and only then it may be started again.
func (d *demo) start(p *process) error {
	log, err := os.OpenFile(d.path(p.name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd := exec.CommandContext(context.Background(), "bin/"+p.name, p.args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, log
	// A Ctrl-C at the terminal is for this program, which stops the others in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start bin/%s: %w", p.name, err)
	}
	waited := make(chan struct{})
	p.cmd, p.waited = cmd, waited
	go func() {
		p.err = cmd.Wait()
		close(waited)
		d.ended <- p
	}()
	if err := os.WriteFile(d.path(p.name+".pid"), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600); err != nil {
		return fmt.Errorf("write its number: %w", err)
	}
	return nil
}

// kill ends a process without giving it time for anything.
func (d *demo) kill(p *process) error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill bin/%s: %w", p.name, err)
	}
	if first := <-d.ended; first != p {
		return fmt.Errorf("%w; its log says why", first.failure())
	}
	return nil
}

func (d *demo) stop() error {
	var errs []error
	var running []*process
	for _, p := range []*process{&d.manager, &d.dataStorage} {
		if p.cmd != nil {
			running = append(running, p)
			_ = p.cmd.Process.Signal(syscall.SIGCONT) // It may be paused, for an outage.
		}
	}
	if len(running) > 0 {
		fmt.Println("\nStopping.")
	}
	for _, p := range running {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
			continue // It was told why already.
		}
		if <-p.waited; p.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, p.err))
		}
	}
	if d.env != nil {
		errs = append(errs, d.env.Stop())
	}
	return errors.Join(errs...)
}

// stay has a program that ends start again, after a pause in which to see what
// that means for the others.
func (d *demo) stay(ctx context.Context) error {
	again := make(chan *process, cap(d.ended))
	meanwhile := map[*process]string{
		&d.manager:     "Until then requests wait: kubectl get nr",
		&d.dataStorage: "Until then messages go out and their events wait: curl -s " + d.metrics + "/metrics | grep ^notification_audit_dead_letters",
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-d.ended:
			fmt.Printf("\n%v and starts again in %s. %s\n", p.failure(), outage, meanwhile[p])
			time.AfterFunc(outage, func() { again <- p })
		case p := <-again:
			if err := d.start(p); err != nil {
				return err
			}
			fmt.Printf("\nbin/%s runs again.\n", p.name)
		}
	}
}

func (d *demo) killDataStorage(ctx context.Context) error {
	if err := d.kill(&d.dataStorage); err != nil {
		return err
	}
	if err := d.apply(ctx, "outage", v1alpha1.ConditionReady); err != nil {
		return err
	}
	return d.until(ctx, "its event is in the dead-letter queue", func() error {
		body, _, err := get(ctx, d.metrics+"/metrics")
		if err == nil && !bytes.Contains(body, []byte("\nnotification_audit_dead_letters 1\n")) {
			err = errors.New("the metric notification_audit_dead_letters is not 1")
		}
		return err
	})
}

func (d *demo) killManager(ctx context.Context) error {
	if err := d.kill(&d.manager); err != nil {
		return err
	}
	if err := d.apply(ctx, "restart"); err != nil {
		return err
	}
	if err := errors.Join(d.start(&d.manager), d.start(&d.dataStorage)); err != nil {
		return err
	}
	for _, name := range []string{"outage", "restart"} {
		if err := d.untilTrue(ctx, name, v1alpha1.ConditionReady, v1alpha1.ConditionAudited); err != nil {
			return err
		}
	}
	return nil
}
