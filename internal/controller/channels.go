package controller

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
)

// Channels finds the channels of requests and makes their senders.
type Channels struct {
	// Reader reads NotificationChannels and the metadata of Secrets, from a cache.
	Reader client.Reader
	// Secrets reads Secrets from the API server, so that none is kept in memory.
	Secrets client.Reader
	// HTTP is the client of all channels over HTTP. It knows which networks any
	// channel may reach.
	HTTP *delivery.HTTP
	// Console is the sender of the built-in channel.
	Console delivery.Sender
	// FileRoot is the directory beneath which all file channels write.
	FileRoot string
}

var secretMetadata = metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}}

// console stands for the built-in channel, which no object describes.
var console = &v1alpha1.NotificationChannel{
	ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.ConsoleChannel},
	Spec:       v1alpha1.NotificationChannelSpec{Type: v1alpha1.ChannelConsole},
}

// consoleTimeout is ample for a write to a pipe that is read.
const consoleTimeout = 10 * time.Second

// lookup returns what the plan needs to know of the channels of nr, and the
// NotificationChannels themselves. It reads no secret.
func (c *Channels) lookup(ctx context.Context, nr *v1alpha1.NotificationRequest) (map[string]channel, map[string]*v1alpha1.NotificationChannel) {
	known := map[string]channel{}
	objects := map[string]*v1alpha1.NotificationChannel{}
	for _, ref := range allRefs(nr) {
		if ref.Name == v1alpha1.ConsoleChannel {
			known[ref.Name] = channel{kind: v1alpha1.ChannelConsole, idempotent: true, timeout: consoleTimeout}
			objects[ref.Name] = console
			continue
		}
		object, missing := c.find(ctx, channelKey(nr.Namespace, ref))
		if object == nil {
			known[ref.Name] = channel{blocked: missing}
			continue
		}
		known[ref.Name] = c.describe(ctx, nr.Namespace, object)
		objects[ref.Name] = object
	}
	return known, objects
}

// find returns a channel, or nil and why there is none to be had.
func (c *Channels) find(ctx context.Context, key types.NamespacedName) (*v1alpha1.NotificationChannel, v1alpha1.DeliveryError) {
	object := &v1alpha1.NotificationChannel{}
	err := c.Reader.Get(ctx, key, object)
	switch {
	case apierrors.IsNotFound(err):
		return nil, blocked(v1alpha1.ReasonChannelNotFound, "there is no NotificationChannel %s: create it", key)
	case err != nil:
		return nil, unreadable("the channel", key, err)
	}
	return object, v1alpha1.DeliveryError{}
}

// describe says what the plan needs to know of a channel that a request in the
// given namespace names.
func (c *Channels) describe(ctx context.Context, namespace string, object *v1alpha1.NotificationChannel) channel {
	revision, missing, err := c.revision(ctx, object)
	ch := channel{
		kind:       object.Spec.Type,
		idempotent: idempotent(&object.Spec),
		timeout:    object.Spec.Timeout.Value(),
		config:     revision,
	}
	key := client.ObjectKeyFromObject(object)
	switch {
	case !allows(object, namespace):
		ch.blocked = notAllowed(key, namespace)
	case isTrue(object.Spec.Suspend):
		ch.blocked = blocked("ChannelSuspended", "the channel %s is suspended: set its suspend to false", key)
	case err != nil:
		ch.blocked = unreadable("a Secret of the channel", key, err)
	case missing != "":
		ch.blocked = blocked(v1alpha1.ReasonSecretNotFound, "the channel %s needs the Secret %s, which does not exist: create it", key, missing)
	}
	return ch
}

// idempotent reports whether a message may be sent again without harm. PagerDuty
// takes one key for one alert while that is open.
func idempotent(spec *v1alpha1.NotificationChannelSpec) bool {
	switch spec.Type {
	case v1alpha1.ChannelFile, v1alpha1.ChannelPagerDuty:
		return true
	default:
		return spec.Webhook != nil && isTrue(spec.Webhook.Idempotent)
	}
}

// isTrue reads a field that is false where it is not given.
func isTrue(field *bool) bool { return field != nil && *field }

// allows reports whether requests of a namespace may use a channel.
func allows(object *v1alpha1.NotificationChannel, namespace string) bool {
	return namespace == object.Namespace ||
		slices.Contains(object.Spec.AllowedNamespaces, v1alpha1.NamespaceName(namespace)) ||
		slices.Contains(object.Spec.AllowedNamespaces, "*")
}

// revision identifies the channel's configuration with its Secrets, and names
// the first Secret that is missing.
func (c *Channels) revision(ctx context.Context, object *v1alpha1.NotificationChannel) (id, missing string, err error) {
	parts := []string{string(object.UID), fmt.Sprint(object.Generation)}
	for _, name := range secretNames(object) {
		meta := secretMetadata.DeepCopy()
		key := types.NamespacedName{Namespace: object.Namespace, Name: name}
		switch err := c.Reader.Get(ctx, key, meta); {
		case apierrors.IsNotFound(err):
			if missing == "" {
				missing = name
			}
		case err != nil:
			return "", "", fmt.Errorf("get metadata of secret %s: %w", key, err)
		}
		parts = append(parts, name, string(meta.UID), meta.ResourceVersion)
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:16]), missing, nil
}

// channelKey is the channel that an object of the given namespace refers to.
func channelKey(namespace string, ref v1alpha1.ChannelReference) types.NamespacedName {
	return types.NamespacedName{Namespace: cmp.Or(ref.Namespace, namespace), Name: ref.Name}
}

// notAllowed is why requests of a namespace may not use a channel.
func notAllowed(key types.NamespacedName, namespace string) v1alpha1.DeliveryError {
	return blocked(v1alpha1.ReasonNamespaceNotAllowed,
		"the channel %s does not allow requests of namespace %s: add it to the channel's allowedNamespaces", key, namespace)
}

// unreadable blocks one channel, and no other, while something of it cannot be
// read.
func unreadable(what string, key types.NamespacedName, err error) v1alpha1.DeliveryError {
	// The cache of several namespaces has no type for this error.
	if strings.Contains(err.Error(), "unknown namespace for the cache") {
		return blocked("NamespaceNotWatched", "the controller does not look at the namespace %s: add it to its --watch-namespaces", key.Namespace)
	}
	return hindrance(v1alpha1.ErrorTransient, "ChannelUnreadable", "%s %s cannot be read: %v", what, key, err)
}

// blocked is what a person has to see to.
func blocked(reason, format string, args ...any) v1alpha1.DeliveryError {
	return hindrance(v1alpha1.ErrorConfig, reason, format, args...)
}

// hindrance is why no attempt begins.
func hindrance(class v1alpha1.ErrorClass, reason, format string, args ...any) v1alpha1.DeliveryError {
	return v1alpha1.DeliveryError{Class: class, Reason: reason, Message: truncate(fmt.Sprintf(format, args...), 256)}
}
