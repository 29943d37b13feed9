
# What the grammar above does not know: nodes, versions, and the paths that go to the next df.
_df_offer() {
    # Names are compared, never given to compgen -W, which would expand what they hold.
    local name
    while IFS= read -r name; do
        if [[ $name == "$cur"* ]]; then COMPREPLY+=("$name"); fi
    done < <(command df __complete "$1" 2>/dev/null)
}

_df_offer_paths() {
    local path
    while IFS= read -r path; do
        if [[ -d $path ]]; then path+=/; fi
        COMPREPLY+=("$(printf %q "$path")")
    done < <(compgen -f -- "$cur")
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then compopt -o nospace 2>/dev/null; fi
}

# Sets `command` to the first word that is no global flag and no value of one, and `second` to the word after it.
_df_find_command() {
    local i
    command="" second=""
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${COMP_WORDS[i]}" in
            -C | --config | --state | --address | --parallel | --color | --timeout)
                ((i++))
                if [[ ${COMP_WORDS[i]-} == "=" ]]; then ((i++)); fi
                ;;
            --dry-run | --detailed-exitcode | --json | --yes | -q | --quiet | -v | --verbose) ;;
            *)
                if [[ -n $command ]]; then
                    second="${COMP_WORDS[i]}"
                    return
                fi
                command="${COMP_WORDS[i]}"
                ;;
        esac
    done
}

_df_words() {
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD - 1]}" command second
    COMPREPLY=()
    if [[ $cur == "=" ]]; then cur=""; elif [[ $prev == "=" ]]; then prev="${COMP_WORDS[COMP_CWORD - 2]}"; fi
    case "$prev" in
        --address) _df_offer nodes && return ;;
        --commit-hash | --version | --to) _df_offer versions && return ;;
    esac
    _df_find_command
    case "$command" in
        "")
            _df "$@"
            if [[ $cur != -* ]]; then _df_offer_paths; fi
            return
            ;;
        @COMMANDS@) ;;
        *) return ;;
    esac
    if [[ $cur != -* ]]; then
        case "$command $second" in
            "rm "* | "remove "* | "with "*) _df_offer nodes && return ;;
            "cache get") _df_offer versions && return ;;
            "cache put") _df_offer versions && _df_offer_paths && return ;;
        esac
    fi
    _df "$@"
}

complete -F _df_words -o bashdefault -o default df
