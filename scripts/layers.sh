#!/usr/bin/env bash
# Checks that the code keeps to its rooms (docs/architecture.md): imports inside `drive` and its
# `core` only go down the order of their `mod` lines, `drive` knows nothing of the kernel, `fs`
# nothing of networks and formats, main stays thin and files stay readable.
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

sub files { return sort map { glob("$_/*.rs"), glob("$_/*/*.rs"), glob("$_/*/*/*.rs") } @_ }

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

my $drive = order_in('drive/lib.rs');
for my $file (files('drive')) {
    next if $file eq 'drive/lib.rs';
    my ($own) = $file =~ m{^drive/(\w+)};
    my $code = code_of($file);
    check_order($file, $own, $drive, targets($code, 'crate'));
    breach("$file: drive may not name $1, it knows nothing of mounts")
        if $code =~ /\b(fuser|drivefs|libc::E[A-Z]+)\b/;
    # Only where a disk is spoken to may an error number of the system's be looked at.
    breach("$file: drive may not name $1, it knows nothing of mounts")
        if $file !~ m{^drive/(core/storage|store|transfer)\b} && $code =~ /\b([Ee]rrno)\b/;
}

# Inside core, the parts come first and know nothing of Core itself (a capital: an item of mod.rs).
# What Core's methods are spread over comes after a comment that says so, and may use all of it.
my $core = order_in('drive/core/mod.rs', '^// Methods of Core');
my $whole_core = order_in('drive/core/mod.rs');
for my $file (glob('drive/core/*.rs')) {
    my ($own) = $file =~ m{(\w+)\.rs$};
    next if $own eq 'mod' || $own =~ /_tests$/;
    next if exists $whole_core->{$own} && !exists $core->{$own};
    my $code = code_of($file);
    my @targets = (targets($code, 'crate::core'), targets($code, 'super'));
    check_order($file, $own, $core, @targets);
    breach("$file: $own may not use $_ of core/mod.rs") for grep { /^[A-Z]/ } @targets;
}

for my $file (files('fs')) {
    my $text = slurp($file);
    breach("$file: fs may not say \"$1\", formats are drive's affair")
        if $text =~ /\b(trie|hypertrie|bee|hyperbee|legacy|modern)\b/i;
    breach("$file: fs may not use $1")
        if code_of($file) =~ /\b(blake2\w*|ed25519\w*|snow|TcpStream|UdpSocket|std::net|tokio::net)\b/;
}

# Poisoning and the order of locks are dealt with in one place. Tests may use any lock.
for my $file (files(qw(src drive fs))) {
    next if $file eq 'drive/sync.rs' || $file =~ m{/tests/|_tests\.rs$};
    my $code = code_of($file);
    breach("$file: PoisonError outside drive/sync.rs; take its locks") if $code =~ /\bPoisonError\b/;
    my $std = join ' ', $code =~ /\bstd::sync::(\{(?:[^{}]|\{[^{}]*\})*\}|\w+)/g;
    breach("$file: std's $1 outside drive/sync.rs; take its locks, they are checked")
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
