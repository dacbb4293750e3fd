#!/usr/bin/env bash
# Checks that the code keeps to its rooms (docs/architecture.md): imports only go down the order of
# the packages (swarm, core, drive, fs, src) and, inside each of them and inside some rooms, the order of
# the `mod` lines; no circles between the files of one folder; the three packages below
# `drive/` know nothing of the kernel, `fs` nothing of networks and formats; main stays thin and
# files stay readable.
#
# usage: scripts/layers.sh [ROOT]     exits 1 and names every breach
set -euo pipefail
cd "${1:-"$(dirname "$0")/.."}"

exec perl - <<'PERL'
use strict;
use warnings;

my $MAX_FILE_LINES = 800;
my $MAX_MAIN_LINES = 60;
my $breaches = 0;
sub breach { print STDERR "layers: @_\n"; $breaches++ }

sub slurp { local (@ARGV, $/) = (shift); return <> // '' }

# Code only: neither comments nor the unit tests at a file's end, which may reach anywhere.
sub code_of {
    my $text = slurp(shift);
    $text =~ s/^#\[cfg\(test\)\]\s*\nmod tests \{.*//ms;
    $text =~ s{(?<!:)//.*$}{}mg;
    return $text;
}

sub files {
    return sort map { my $root = $_; map { glob($root . '/*' x $_ . '.rs') } 1 .. 5 } @_;
}

# Tests may reach anywhere.
sub is_test { return shift =~ m{/tests?/|/(tests|testing|vectors|simulation|\w+_tests)\.rs$} }

# name => position, from the `mod` lines of a file, up to a line that matches `end`.
sub order_in {
    my ($file, $end) = @_;
    my ($n, %rank) = (0);
    my $code = slurp($file);
    $code =~ s/$end.*//ms if $end;
    $rank{$1} = $n++ while $code =~ /^(?:pub(?:\(\w+\))? )?mod (\w+);/mg;
    return \%rank;
}

# The first segments after `prefix::`, braces opened: `crate::{a::X, b}` gives a, b.
sub targets {
    my ($code, $prefix) = @_;
    my @found;
    while ($code =~ /\b$prefix\s*::\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\w+)/g) {
        my $group = $1;
        if ($group !~ s/^\{(.*)\}$/$1/s) { push @found, $group; next }
        1 while $group =~ s/\{[^{}]*\}//g;
        push @found, map { /^\s*(\w+)/ ? $1 : () } split /,/, $group;
    }
    return @found;
}

sub check_order {
    my ($file, $own, $rank, @targets) = @_;
    return breach("$file: module $own is not declared") unless exists $rank->{$own};
    for my $target (@targets) {
        next unless exists $rank->{$target} && $rank->{$target} > $rank->{$own};
        breach("$file: $own may not use $target, which comes after it");
    }
}

# The packages in import order, as crates; what fs may use is drive alone.
my @packages = qw(swarm core drive);
for my $n (0 .. $#packages) {
    my $package = "drive/$packages[$n]";
    my $rank = order_in("$package/lib.rs");
    my $above = join '|', map("hypermount_$_", @packages[$n + 1 .. $#packages]), 'drivefs', 'fuser';
    for my $file (files($package)) {
        next if $file eq "$package/lib.rs";
        my ($own) = $file =~ m{^$package/(\w+)};
        my $code = code_of($file);
        check_order($file, $own, $rank, targets($code, 'crate'));
        breach("$file: $packages[$n] may not name $1, which comes after it")
            if $code =~ /\b($above)\b/;
        breach("$file: $packages[$n] may not name $1, it knows nothing of mounts")
            if $code =~ /\b(libc::E[A-Z]+)\b/;
        # Only files that access a disk may look at an error number of the system.
        breach("$file: $packages[$n] may not name $1, it knows nothing of mounts")
            if $file !~ m{^drive/(core/hypercore/storage|core/store|drive/transfer|drive/sparse)\b}
            && $code =~ /\b([Ee]rrno)\b/;
    }
}

# Inside hypercore, the parts come first and know nothing of Core itself (a capital: an item of
# mod.rs). The files with Core's methods come after a comment that says so, and may use all.
my $core = order_in('drive/core/hypercore/mod.rs', '^// Methods of Core');
my $whole_core = order_in('drive/core/hypercore/mod.rs');
for my $file (glob('drive/core/hypercore/*.rs')) {
    my ($own) = $file =~ m{(\w+)\.rs$};
    next if $own eq 'mod' || $own =~ /_tests$/;
    next if exists $whole_core->{$own} && !exists $core->{$own};
    my $code = code_of($file);
    my @targets = (targets($code, 'crate::hypercore'), targets($code, 'super'));
    check_order($file, $own, $core, @targets);
    breach("$file: $own may not use $_ of hypercore/mod.rs") for grep { /^[A-Z]/ } @targets;
}

# Inside fs and src as well.
for my $root ('fs/lib.rs', 'src/main.rs') {
    my ($folder) = split m{/}, $root;
    my $rank = order_in($root);
    for my $file (files($folder)) {
        next if $file eq $root || is_test($file);
        my ($own) = $file =~ m{^$folder/(\w+)};
        check_order($file, $own, $rank, targets(code_of($file), 'crate'));
    }
}

# The seams (docs/decisions/0017): what one kind of core has to itself is named by the dialect alone, and
# knows nothing of Core; one format of an index is named by the index alone.
for my $file (files('drive/core')) {
    next if is_test($file) || $file eq 'drive/core/hypercore/mod.rs';
    my $code = code_of($file);
    if ($file =~ m{^drive/core/hypercore/(legacy|modern)/}) {
        my ($own, $other) = $1 eq 'legacy' ? qw(legacy modern) : qw(modern legacy);
        breach("$file: $own may not use $_ of hypercore/mod.rs")
            for grep { /^[A-Z]/ } targets($code, 'crate::hypercore'), targets($code, 'super::super');
        breach("$file: $own may not use dialect, which comes after it")
            if grep { $_ eq 'dialect' } map { @$_ } paths($code);
        breach("$file: $own may not use $other, the rules of another kind of core")
            if grep { $_ eq $other } map { @$_ } paths($code);
        next;
    }
    next if $file eq 'drive/core/hypercore/dialect.rs';
    breach("$file: only hypercore/dialect.rs may name the rules of one kind of core")
        if grep { join('::', @$_) =~ /^(crate::hypercore|super)(::super)*::(legacy|modern)\b/ }
        grep { $file =~ m{^drive/core/hypercore/} || $_->[0] eq 'crate' } paths($code);
}
for my $file (files('drive/drive')) {
    next if is_test($file) || $file =~ m{^drive/drive/index/};
    breach("$file: only drive/drive/index may name the trie") if code_of($file) =~ /\b(trie|Trie\w*)\b/;
}

# Inside these rooms the order counts as well; all may use what mod.rs holds itself.
for my $room (qw(drive/swarm/network drive/core/sharing src/daemon)) {
    my ($name) = $room =~ m{(\w+)$};
    my $rank = order_in("$room/mod.rs");
    for my $file (files($room)) {
        next if $file eq "$room/mod.rs" || is_test($file);
        my ($own, $deeper) = $file =~ m{^$room/(\w+)(/(?!mod\.rs))?};
        my $code = code_of($file);
        my @targets = targets($code, "crate::$name");
        push @targets, targets($code, 'super') unless $deeper;
        check_order($file, $own, $rank, @targets);
    }
}

# Every path below `crate` or `super` in the code, braces opened.
sub paths {
    my ($code) = @_;
    my @found;
    while ($code =~ /\b((?:crate|super)(?:\s*::\s*\w+)*)(?:\s*::\s*(\{(?:[^{}]++|(?-1))*\}))?/g) {
        my ($path, $tree) = ($1, $2);
        push @found, $tree ? map({ $path . '::' . $_ } opened($tree)) : $path;
    }
    return map { [split /\s*::\s*/] } @found;
}

# The paths in `{a::{b, c}, d}`.
sub opened {
    my ($group) = @_;
    $group =~ s/^\s*\{(.*)\}\s*$/$1/s;
    my @found;
    while ($group =~ /\G\s*,?\s*(\w+(?:\s*::\s*\w+)*)(?:\s*::\s*(\{(?:[^{}]++|(?-1))*\}))?[^,]*/g) {
        my ($path, $tree) = ($1, $2);
        push @found, $tree ? map({ $path . '::' . $_ } opened($tree)) : $path;
    }
    return @found;
}

# Circles between the modules of one folder: a module names another by its path, which (or another
# on the way) names it. What lies deeper counts for the module that it is in.
for my $package ((map { "drive/$_" } @packages), 'fs', 'src') {
    my (%module, %uses);
    my @files = grep { !is_test($_) } files($package);
    for my $file (@files) {
        my @path = split m{/}, substr($file, length($package) + 1) =~ s/\.rs$//r;
        pop @path if $path[-1] =~ /^(mod|lib|main)$/;
        $module{$file} = \@path;
    }
    my %is_module = map { join('::', @$_) => 1 } values %module;
    for my $file (@files) {
        my @from = @{ $module{$file} };
        for my $path (paths(code_of($file))) {
            my @at = $path->[0] eq 'crate' ? () : @from;
            for my $segment (@$path) {
                next if $segment eq 'crate';
                if ($segment eq 'super') { pop @at; next }
                last unless $is_module{ join '::', @at, $segment };
                push @at, $segment;
            }
            my $n = 0;
            $n++ while $n < @from && $n < @at && $from[$n] eq $at[$n];
            next if $n == @from || $n == @at;
            $uses{ join '/', $package, @from[0 .. $n - 1] }{ $from[$n] }{ $at[$n] } = 1;
        }
    }
    for my $folder (sort keys %uses) {
        my $uses = $uses{$folder};
        my %done;
        for my $start (sort keys %$uses) {
            next if $done{$start};
            my @circle = grep { $_ eq $start || reaches($uses, $start, $_) && reaches($uses, $_, $start) }
                sort keys %$uses;
            $done{$_} = 1 for @circle;
            next if @circle == 1;
            breach("$folder: " . join(', ', @circle) . ' use each other in a circle');
        }
    }
}

sub reaches {
    my ($uses, $from, $to) = @_;
    my (%seen, @left) = ();
    @left = keys %{ $uses->{$from} // {} };
    while (defined(my $next = shift @left)) {
        return 1 if $next eq $to;
        next if $seen{$next}++;
        push @left, keys %{ $uses->{$next} // {} };
    }
    return 0;
}

for my $file (files('fs')) {
    my $text = slurp($file);
    breach("$file: fs may not say \"$1\", formats are drive's affair")
        if $text =~ /\b(trie|hypertrie|bee|hyperbee|legacy|modern)\b/i;
    breach("$file: fs may not name $1, it sees hypermount_drive alone")
        if code_of($file) =~ /\b(hypermount_swarm|hypermount_core)\b/;
    breach("$file: fs may not use $1")
        if code_of($file) =~ /\b(blake2\w*|ed25519\w*|snow|TcpStream|UdpSocket|std::net|tokio::net)\b/;
}

# Poisoning and the order of locks are dealt with in one place. Tests may use any lock.
for my $file (files(qw(src drive fs))) {
    next if $file eq 'drive/swarm/sync.rs' || $file =~ m{/tests/|_tests\.rs$};
    my $code = code_of($file);
    breach("$file: PoisonError outside swarm/sync.rs; take its locks") if $code =~ /\bPoisonError\b/;
    my $std = join ' ', $code =~ /\bstd::sync::(\{(?:[^{}]|\{[^{}]*\})*\}|\w+)/g;
    breach("$file: std's $1 outside swarm/sync.rs; take its locks, they are checked")
        if $std =~ /\b(Mutex|RwLock|Condvar)\b/;
}

for my $file (files(qw(src drive fs tests))) {
    my $lines = () = slurp($file) =~ /\n/g;
    breach("$file: $lines lines, more than $MAX_FILE_LINES; split it") if $lines > $MAX_FILE_LINES;
    breach("$file: $lines lines, not under $MAX_MAIN_LINES")
        if $file eq 'src/main.rs' && $lines >= $MAX_MAIN_LINES;
}

exit($breaches ? 1 : 0);
PERL
