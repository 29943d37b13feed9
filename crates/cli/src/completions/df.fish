
# What the grammar above does not know: nodes, versions, and the paths that go to the next df.
complete -c df -n "__fish_df_needs_command" -F
complete -c df -n "__fish_df_using_subcommand remove rm with" -f -a "(command df __complete nodes 2>/dev/null)"
complete -c df -n "__fish_df_using_subcommand cache; and __fish_seen_subcommand_from get put" -a "(command df __complete versions 2>/dev/null)"
