package delivery

import (
	"fmt"
	"slices"
	"text/template"
	"text/template/parse"
)

const (
	// maxLoop is how often a range is entered at most: a request has up to 32 fields
	// and fewer links.
	maxLoop = 32
	// maxDepth is how many ranges may be within one another.
	maxDepth = 2
	// maxSteps is how many nodes of its tree a template may visit in one execution:
	// some milliseconds.
	maxSteps = 20000
)

// operators are those of text/template's own functions that a template may call.
// The others format without bound, or call what they are given.
var operators = []string{"and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len", "index"}

// inspect refuses a template that could run for long: all that it repeats is known
// beforehand, so that the steps can be counted.
func inspect(t *template.Template) error {
	i := inspector{tree: t.Tree, functions: (&work{}).functions()}
	steps := i.steps(t.Root, true, 0)
	if len(t.Templates()) > 1 {
		i.refuse(t.Root, "define and block are not for these templates")
	}
	if steps > maxSteps {
		i.refuse(t.Root, "takes up to %d steps, and may take %d: put less into range", steps, maxSteps)
	}
	return i.err
}

type inspector struct {
	tree      *parse.Tree
	functions template.FuncMap
	err       error // the first one
}

func (i *inspector) refuse(n parse.Node, format string, args ...any) {
	if i.err == nil {
		location, _ := i.tree.ErrorContext(n)
		i.err = fmt.Errorf("%s: %s", location, fmt.Sprintf(format, args...))
	}
}

// steps counts the steps of a node at most. root says whether the dot is the
// message there, depth how many ranges are around it.
func (i *inspector) steps(n parse.Node, root bool, depth int) (count int) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return 0
		}
		for _, child := range n.Nodes {
			count += i.steps(child, root, depth)
		}
		return count
	case *parse.ActionNode:
		return i.steps(n.Pipe, root, depth)
	case *parse.IfNode:
		return i.steps(n.Pipe, root, depth) + i.steps(n.List, root, depth) + i.steps(n.ElseList, root, depth)
	case *parse.WithNode:
		return i.steps(n.Pipe, root, depth) + i.steps(n.List, false, depth) + i.steps(n.ElseList, root, depth)
	case *parse.RangeNode:
		if depth == maxDepth {
			i.refuse(n, "has more than %d ranges within one another", maxDepth)
			return 0
		}
		if !known(n.Pipe, root) {
			i.refuse(n, "range is for .Links and .Fields, within another range or with as $.Links and $.Fields")
		}
		return i.steps(n.Pipe, root, depth) + maxLoop*(1+i.steps(n.List, false, depth+1)) + i.steps(n.ElseList, root, depth)
	case *parse.PipeNode:
		for _, v := range n.Decl {
			if v.Ident[0] == "$" {
				i.refuse(n, "$ is the message and cannot be set")
			}
		}
		for _, command := range n.Cmds {
			count += i.steps(command, root, depth)
		}
		return count + 1
	case *parse.CommandNode:
		for _, arg := range n.Args {
			count += i.steps(arg, root, depth)
		}
		return count
	case *parse.ChainNode:
		return 1 + i.steps(n.Node, root, depth)
	case *parse.IdentifierNode:
		if i.functions[n.Ident] == nil && !slices.Contains(operators, n.Ident) {
			i.refuse(n, "%s is not for these templates", n.Ident)
		}
		return 1
	case *parse.TextNode, *parse.FieldNode, *parse.VariableNode, *parse.DotNode, *parse.NilNode, *parse.BoolNode,
		*parse.NumberNode, *parse.StringNode, *parse.BreakNode, *parse.ContinueNode:
		return 1
	default:
		i.refuse(n, "%s is not for these templates", n)
		return 0
	}
}

// known reports whether a range is over one of the lists of a message.
func known(pipe *parse.PipeNode, root bool) bool {
	if len(pipe.Cmds) != 1 || len(pipe.Cmds[0].Args) != 1 {
		return false
	}
	var path []string
	switch arg := pipe.Cmds[0].Args[0].(type) {
	case *parse.FieldNode:
		if root {
			path = arg.Ident
		}
	case *parse.VariableNode:
		if arg.Ident[0] == "$" {
			path = arg.Ident[1:]
		}
	}
	return len(path) == 1 && (path[0] == "Links" || path[0] == "Fields")
}
